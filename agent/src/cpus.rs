//! The guest's CPUs: those that it started with are in use, others wait until more are asked for.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const CPUS: &str = "/sys/devices/system/cpu";

/// Takes CPUs into use until there are `count`.
pub fn online(count: usize) -> Result<()> {
    online_in(Path::new(CPUS), count)
}

fn online_in(folder: &Path, count: usize) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("list the CPUs"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<u32> = names.filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
    numbers.sort_unstable();
    if numbers.len() < count {
        return Err(Error::Runtime(format!("{count} CPUs asked for, the guest has {}", numbers.len())));
    }
    for number in &numbers[..count] {
        let switch: PathBuf = folder.join(format!("cpu{number}/online"));
        // The first has no switch.
        if switch.exists() {
            std::fs::write(&switch, "1").map_err(Error::io(format!("take CPU {number} into use")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_asked_for_are_switched_on() {
        let folder = tempfile::tempdir().unwrap();
        for cpu in 0..3 {
            std::fs::create_dir(folder.path().join(format!("cpu{cpu}"))).unwrap();
            if cpu > 0 {
                std::fs::write(folder.path().join(format!("cpu{cpu}/online")), "0").unwrap();
            }
        }
        std::fs::create_dir(folder.path().join("cpuidle")).unwrap();
        online_in(folder.path(), 2).unwrap();
        let state = |cpu| std::fs::read_to_string(folder.path().join(format!("cpu{cpu}/online"))).unwrap();
        assert_eq!((state(1), state(2)), ("1".into(), "0".into()));
        assert!(online_in(folder.path(), 4).unwrap_err().to_string().contains("the guest has 3"));
    }
}
