//! Kernel parameters that come with the initial RAM disk (Linux's `Documentation/admin-guide/bootconfig.rst`): the
//! command line has no room for a parameter of each device.

/// The argument on the command line that makes the kernel look for parameters behind its initial RAM disk.
pub const ARGUMENT: &str = "bootconfig";
const MAGIC: &[u8] = b"#BOOTCONFIG\n";
/// The kernel reads two words in front of the magic text: the length of the parameters, and the sum of their bytes.
const ALIGNMENT: usize = 4;

/// What follows an initial RAM disk of `length` bytes so that the kernel has the parameter `name` once with each of
/// `values`, which hold no quotation marks.
pub fn trailer(length: usize, name: &str, values: &[String]) -> Vec<u8> {
    let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
    let mut trailer = format!("kernel.{name} = {}\n", quoted.join(", ")).into_bytes();
    let end = (length + trailer.len()).next_multiple_of(ALIGNMENT);
    trailer.resize(end - length, 0);
    let sum: u32 = trailer.iter().copied().map(u32::from).sum();
    let length = trailer.len() as u32;
    trailer.extend(length.to_le_bytes());
    trailer.extend(sum.to_le_bytes());
    trailer.extend(MAGIC);
    trailer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_as_the_kernel_reads_them() {
        let values = ["4K@0xd0000000:5".to_owned(), "4K@0xd0001000:6".to_owned()];
        let text = b"kernel.virtio_mmio.device = \"4K@0xd0000000:5\", \"4K@0xd0001000:6\"\n";
        for initrd in 0..4 {
            let trailer = trailer(initrd, "virtio_mmio.device", &values);
            let (head, magic) = trailer.split_at(trailer.len() - MAGIC.len());
            let (parameters, words) = head.split_at(head.len() - 8);
            assert_eq!(magic, MAGIC);
            assert_eq!((initrd + parameters.len()) % ALIGNMENT, 0);
            let (stated, padding) = parameters.split_at(text.len());
            assert_eq!(stated, text);
            assert!(padding.len() < ALIGNMENT && padding.iter().all(|byte| *byte == 0));
            let sum: u32 = parameters.iter().map(|byte| u32::from(*byte)).sum();
            assert_eq!(words[..4], (parameters.len() as u32).to_le_bytes());
            assert_eq!(words[4..], sum.to_le_bytes());
        }
    }
}
