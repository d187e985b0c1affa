//! The CPUID leaves of one vCPU: those that KVM supports, with this machine's topology.
//!
//! The topology is flat: each vCPU is a core of one package, and its APIC identifier is its index.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

const LEAF_FEATURES: u32 = 0x1;
const LEAF_CACHE: u32 = 0x4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const FEATURE_TSC_DEADLINE: u32 = 1 << 24;
const FEATURE_HYPERVISOR: u32 = 1 << 31;
const FEATURE_HTT: u32 = 1 << 28;
/// `KVM_FEATURE_PV_EOI`, which is withheld: hosts with APICv or AVIC do not need it, and QEMU 7.2's emulation of AMD-V
/// may deliver an interrupt twice if its end causes no exit.
const KVM_FEATURE_PV_EOI: u32 = 1 << 6;

/// Adapts the leaves in `cpuid` to vCPU `index` of `count`.
pub fn adapt(cpuid: &mut CpuId, index: u8, count: u8) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => features(entry, index, count),
            LEAF_CACHE => entry.eax &= 0x0000_3fff,
            LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => topology(entry, index, count),
            LEAF_AMD_SIZES => {
                entry.ecx = (entry.ecx & !0xffff) | (id_bits(count) << 12) | (u32::from(count) - 1)
            }
            LEAF_KVM_FEATURES => entry.eax &= !KVM_FEATURE_PV_EOI,
            LEAF_AMD_TOPOLOGY => amd_topology(entry, index),
            _ => {}
        }
    }
}

fn features(entry: &mut kvm_cpuid_entry2, index: u8, count: u8) {
    entry.ebx = (entry.ebx & 0x0000_ffff) | (u32::from(count) << 16) | (u32::from(index) << 24);
    // KVM_GET_SUPPORTED_CPUID omits the deadline timer, which the in-kernel local APIC has.
    entry.ecx |= FEATURE_TSC_DEADLINE | FEATURE_HYPERVISOR;
    if count > 1 {
        entry.edx |= FEATURE_HTT;
    } else {
        entry.edx &= !FEATURE_HTT;
    }
}

fn topology(entry: &mut kvm_cpuid_entry2, index: u8, count: u8) {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let (shift, logical, level) = match entry.index {
        0 => (0, 1, LEVEL_THREAD),
        1 => (id_bits(count), u32::from(count), LEVEL_CORE),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = logical;
    entry.ecx = (level << 8) | entry.index;
    entry.edx = u32::from(index);
}

fn amd_topology(entry: &mut kvm_cpuid_entry2, index: u8) {
    entry.eax = u32::from(index);
    entry.ebx = u32::from(index);
    entry.ecx = 0;
}

/// Number of APIC identifier bits that distinguish `count` vCPUs.
fn id_bits(count: u8) -> u32 {
    u8::BITS - count.saturating_sub(1).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(function: u32, sub: u32, index: u8, count: u8) -> kvm_cpuid_entry2 {
        let entry = kvm_cpuid_entry2 { function, index: sub, ..Default::default() };
        let mut cpuid = CpuId::from_entries(&[entry]).unwrap();
        adapt(&mut cpuid, index, count);
        cpuid.as_slice()[0]
    }

    #[test]
    fn identifiers_take_as_many_bits_as_needed() {
        assert_eq!([1, 2, 3, 4, 5, 32].map(id_bits), [0, 1, 2, 2, 3, 5]);
    }

    #[test]
    fn the_end_of_an_interrupt_is_told_to_the_apic() {
        let mut cpuid = CpuId::from_entries(&[kvm_cpuid_entry2 {
            function: LEAF_KVM_FEATURES,
            eax: 0xff,
            ..Default::default()
        }])
        .unwrap();
        adapt(&mut cpuid, 0, 1);
        assert_eq!(cpuid.as_slice()[0].eax, 0xff & !KVM_FEATURE_PV_EOI);
    }

    #[test]
    fn each_vcpu_reads_its_own_identifier() {
        let leaf = adapted(LEAF_FEATURES, 0, 3, 4);
        assert_eq!((leaf.ebx >> 24, (leaf.ebx >> 16) & 0xff), (3, 4));
        assert_ne!(leaf.ecx & FEATURE_HYPERVISOR, 0);
        let core = adapted(LEAF_TOPOLOGY, 1, 3, 4);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 4, 0x201, 3));
    }
}
