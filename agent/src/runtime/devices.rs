//! The devices that a container's processes may use, kept by a program of its control group
//! (`Documentation/admin-guide/cgroup-v2.rst`, "Device controller"). Without it a node that an image or a copied file brings
//! would open the guest's disks, and in a capsule its neighbours'.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Result};

/// Commands of `bpf(2)`, the type of program, and where it is attached (`linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// Kinds of devices and of access, as the kernel asks.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MAKE | READ | WRITE;

/// What every container has (OCI runtime specification, "Default Devices"), terminals, and that it may make any node: what a
/// node opens is asked when it is opened.
const DEFAULTS: [Rule; 10] = [
    Rule::allow(CHAR, None, None, MAKE),
    Rule::allow(BLOCK, None, None, MAKE),
    Rule::allow(CHAR, Some(1), Some(3), ALL),
    Rule::allow(CHAR, Some(1), Some(5), ALL),
    Rule::allow(CHAR, Some(1), Some(7), ALL),
    Rule::allow(CHAR, Some(1), Some(8), ALL),
    Rule::allow(CHAR, Some(1), Some(9), ALL),
    Rule::allow(CHAR, Some(5), Some(0), ALL),
    Rule::allow(CHAR, Some(5), Some(2), ALL),
    Rule::allow(CHAR, Some(136), None, ALL),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allows: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    const fn allow(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Self {
        Self { allows: true, kind: Some(kind), major, minor, access }
    }

    fn of(rule: &LinuxDeviceCgroup) -> Result<Self> {
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
            LinuxDeviceType::P => return Err(Error::Runtime("a named pipe is no device to allow".into())),
        };
        // Only none at all, or -1, is any (OCI runtime specification, "Allowed Device list").
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => i32::try_from(number)
                .map(Some)
                .map_err(|_| Error::Runtime(format!("there is no device of the number {number}"))),
        };
        let letters = rule.access().as_deref().unwrap_or("rwm");
        let bits = [('m', MAKE), ('r', READ), ('w', WRITE)];
        let access =
            bits.iter().filter(|(letter, _)| letters.contains(*letter)).fold(0, |all, (_, bit)| all | bit);
        Ok(Self {
            allows: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        })
    }
}

/// Lets the processes of `cgroup` use the default devices, and others as `rules` say, of which the last one that fits counts;
/// what none names is forbidden.
pub fn restrict(cgroup: &Path, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let rules: Vec<_> = rules.iter().map(Rule::of).collect::<Result<_>>()?;
    let what = format!("bound the devices of {}", cgroup.display());
    let attached = File::open(cgroup).and_then(|group| attach(&group, &load(&program(&rules))?));
    attached.map_err(Error::io(what))
}

/// An instruction (`linux/bpf.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    /// The destination in the lower four bits, the source in the others.
    registers: u8,
    offset: i16,
    value: i32,
}

/// Registers: the result, what is asked, and its parts.
const RESULT: u8 = 0;
const ASKED: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = ASKED;

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb4;
const AND_VALUE: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT: u8 = 0x56;
const JUMP_IF: u8 = 0x16;
const EXIT: u8 = 0x95;

const fn with(code: u8, register: u8, value: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, value }
}

const fn from(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value: 0 }
}

fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        from(LOAD_WORD, KIND, ASKED, 0),
        from(MOVE, ACCESS, KIND, 0),
        with(AND_VALUE, KIND, 0xffff),
        with(SHIFT_RIGHT, ACCESS, 16),
        from(LOAD_WORD, MAJOR, ASKED, 4),
        from(LOAD_WORD, MINOR, ASKED, 8),
    ];
    // The first that fits decides.
    for rule in DEFAULTS.iter().chain(rules.iter().rev()) {
        program.extend(match_rule(rule));
    }
    program.extend(answer(false));
    program
}

/// Answers where a rule matches, and else goes on behind it.
fn match_rule(rule: &Rule) -> Vec<Instruction> {
    let mut steps = Vec::new();
    for (register, wanted) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
        steps.extend(wanted.map(|wanted| with(JUMP_IF_NOT, register, wanted)));
    }
    steps.push(from(MOVE, SCRATCH, ACCESS, 0));
    if rule.allows {
        // All that is asked must be allowed, and anything that is forbidden forbids it.
        steps.extend([with(AND_VALUE, SCRATCH, ALL & !rule.access), with(JUMP_IF_NOT, SCRATCH, 0)]);
    } else {
        steps.extend([with(AND_VALUE, SCRATCH, rule.access), with(JUMP_IF, SCRATCH, 0)]);
    }
    steps.extend(answer(rule.allows));
    let end = steps.len() as i16;
    for (place, step) in (1..).zip(&mut steps) {
        if matches!(step.code, JUMP_IF | JUMP_IF_NOT) {
            step.offset = end - place;
        }
    }
    steps
}

fn answer(allowed: bool) -> [Instruction; 2] {
    [with(MOVE_VALUE, RESULT, allowed.into()), with(EXIT, 0, 0)]
}

/// The arguments of `bpf(2)`, as far as they are used here; the kernel takes what is missing for zeros.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log: [u32; 4],
}

#[repr(C)]
struct Attach {
    group: u32,
    program: u32,
    place: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> std::io::Result<OwnedFd> {
    let arguments = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the arguments, the program and the licence live through the call, which only reads them.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const arguments, size_of::<Load>())
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(std::io::Error::other)?) })
}

fn attach(group: &File, program: &OwnedFd) -> std::io::Result<()> {
    let number = |fd: &dyn AsRawFd| fd.as_raw_fd().cast_unsigned();
    let arguments =
        Attach { group: number(group), program: number(program), place: ATTACH_CGROUP_DEVICE, flags: 0 };
    // SAFETY: the arguments live through the call, which only reads them.
    let status =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const arguments, size_of::<Attach>()) };
    Errno::result(status)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the program answers, by an interpreter of what it is made of.
    fn is_allowed(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let asked = [kind | access << 16, major, minor];
        let (mut registers, mut place) = ([0i32; 6], 0usize);
        loop {
            let one = program[place];
            let (to, from) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
            place += 1;
            let jump = match one.code {
                LOAD_WORD => {
                    registers[to] = asked[one.offset as usize / 4];
                    false
                }
                MOVE => {
                    registers[to] = registers[from];
                    false
                }
                MOVE_VALUE => {
                    registers[to] = one.value;
                    false
                }
                AND_VALUE => {
                    registers[to] &= one.value;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= one.value;
                    false
                }
                JUMP_IF => registers[to] == one.value,
                JUMP_IF_NOT => registers[to] != one.value,
                EXIT => return registers[0] != 0,
                other => panic!("{other:#x}"),
            };
            if jump {
                place += one.offset as usize;
            }
        }
    }

    fn rules(rules: serde_json::Value) -> Vec<Rule> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        rules.iter().map(|rule| Rule::of(rule).unwrap()).collect()
    }

    #[test]
    fn a_container_has_its_default_devices_and_no_other() {
        for program in [program(&[]), program(&rules(json!([{ "allow": false, "access": "rwm" }])))] {
            for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 7)] {
                assert!(is_allowed(&program, CHAR, READ | WRITE, major, minor), "{major}:{minor}");
            }
            for (kind, major, minor) in
                [(BLOCK, 254, 0), (CHAR, 4, 64), (CHAR, 1, 1), (CHAR, 10, 200), (BLOCK, 1, 3)]
            {
                assert!(!is_allowed(&program, kind, READ, major, minor), "{major}:{minor}");
                assert!(!is_allowed(&program, kind, MAKE | WRITE, major, minor), "{major}:{minor}");
                assert!(is_allowed(&program, kind, MAKE, major, minor), "{major}:{minor}");
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_counts() {
        let program = program(&rules(json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "access": "rw" },
            { "allow": false, "type": "c", "major": 10, "minor": 200, "access": "w" },
            { "allow": false, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        ])));
        assert!(is_allowed(&program, CHAR, READ | WRITE, 10, 1));
        assert!(
            is_allowed(&program, CHAR, READ, 10, 200) && !is_allowed(&program, CHAR, READ | WRITE, 10, 200)
        );
        assert!(is_allowed(&program, CHAR, READ, 1, 3), "a default device stays");
        let all = super::program(&rules(json!([{ "allow": true, "access": "rwm" }])));
        assert!(is_allowed(&all, BLOCK, READ | WRITE, 254, 0));
    }
}
