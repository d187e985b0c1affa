//! The Intel MultiProcessor table (MP specification 1.4), which describes the CPUs and interrupt lines to a guest
//! without ACPI.

use vm_memory::{Bytes, GuestAddress};

use crate::Result;
use crate::layout::{IOAPIC_PINS, MP_TABLE};
use crate::memory::Memory;

const IOAPIC_ADDRESS: u32 = 0xfec0_0000;
const LAPIC_ADDRESS: u32 = 0xfee0_0000;
const APIC_VERSION: u8 = 0x14;
const FLOATING_POINTER_SIZE: u64 = 16;
const HEADER_SIZE: u16 = 44;

const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;

const INTERRUPT_VECTORED: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTINT: u8 = 3;

/// Writes the table for `vcpus` processors with APIC identifiers from 0 on.
pub fn write_mp_table(memory: &Memory, vcpus: u8) -> Result<()> {
    let table = GuestAddress(MP_TABLE.0 + FLOATING_POINTER_SIZE);
    memory.write_slice(&floating_pointer(table), MP_TABLE)?;
    memory.write_slice(&configuration(vcpus), table)?;
    Ok(())
}

fn floating_pointer(table: GuestAddress) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    // The address fits 32 bits: the table lies below 1 MiB.
    bytes.extend((table.0 as u32).to_le_bytes());
    bytes.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes
}

fn configuration(vcpus: u8) -> Vec<u8> {
    let ioapic_id = vcpus;
    let mut entries = Vec::new();
    for cpu in 0..vcpus {
        entries.push(processor(cpu));
    }
    entries.push([&[ENTRY_BUS, 0][..], b"ISA   "].concat());
    entries.push([&[ENTRY_IOAPIC, ioapic_id, APIC_VERSION, 1][..], &IOAPIC_ADDRESS.to_le_bytes()].concat());
    for pin in 0..IOAPIC_PINS as u8 {
        entries.push(vec![ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, 0, 0, 0, pin, ioapic_id, pin]);
    }
    entries.push(vec![ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTINT, 0, 0, 0, 0, 0, 0]);
    entries.push(vec![ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, 0, 0, 0, 0, 0xff, 1]);

    let count = entries.len() as u16;
    let entries = entries.concat();
    let mut table = b"PCMP".to_vec();
    table.extend((HEADER_SIZE + entries.len() as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"ZUNKATA SANDBOX     ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LAPIC_ADDRESS.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = checksum(&table);
    table
}

fn processor(cpu: u8) -> Vec<u8> {
    const ENABLED: u8 = 1;
    const BOOTSTRAP: u8 = 2;
    const SIGNATURE: u32 = 0x600;
    const FEATURES_FPU_APIC: u32 = 0x201;
    let flags = if cpu == 0 { ENABLED | BOOTSTRAP } else { ENABLED };
    let mut entry = vec![ENTRY_PROCESSOR, cpu, APIC_VERSION, flags];
    entry.extend(SIGNATURE.to_le_bytes());
    entry.extend(FEATURES_FPU_APIC.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

/// The byte that makes the sum of all bytes zero modulo 256.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{HIGH_MEMORY, MAX_VCPUS};

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn checksums_and_lengths_hold() {
        for vcpus in [1, 2, MAX_VCPUS] {
            let table = configuration(vcpus);
            assert_eq!(sum(&table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            let entries = u16::from_le_bytes([table[34], table[35]]);
            assert_eq!(entries, u16::from(vcpus) + 1 + 1 + 24 + 2);
        }
        let pointer = floating_pointer(GuestAddress(0x9_fc10));
        assert_eq!((sum(&pointer), pointer.len()), (0, 16));
    }

    #[test]
    fn the_largest_table_fits_its_kibibyte() {
        let end = MP_TABLE.0 + FLOATING_POINTER_SIZE + configuration(MAX_VCPUS).len() as u64;
        assert!(end <= 0xa_0000, "ends at {end:#x}");
        assert!(end < HIGH_MEMORY.0);
    }
}
