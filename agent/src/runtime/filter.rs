//! A container's seccomp filter, compiled once for all its processes. `libcontainer` would give none to further
//! processes, and takes a masked comparison's mask for its value.

use std::io::{Read, Seek};
use std::sync::Arc;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};

use crate::error::{Error, Result};

/// The last system call of this guest's kernel, `set_mempolicy_home_node`: later ones have the same numbers on all
/// architectures. What is not there must be told as such, so that a program tries something else.
const LAST_CALL: u32 = 450;
/// Offset of the call's number in what a filter sees (`linux/seccomp.h`).
const NUMBER: u32 = 0;

/// A filter that can be applied to a process.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Arc<[libc::sock_filter]>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Compiles what a specification says.
    pub fn compile(seccomp: &LinuxSeccomp) -> Result<Self> {
        let what = |e: SeccompError| Error::Runtime(format!("the seccomp profile cannot be used: {e}"));
        let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
        let mut context = ScmpFilterContext::new(default).map_err(what)?;
        for architecture in seccomp.architectures().iter().flatten() {
            context.add_arch(known(*architecture)?).map_err(what)?;
        }
        for rule in seccomp.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret())?;
            // The library refuses a rule that changes nothing.
            if action != default {
                add(&mut context, rule, action).map_err(what)?;
            }
        }
        let program = export(&context)?;
        let prologue =
            if matches!(default, ScmpAction::Errno(_)) { &tells_what_is_not_there()[..] } else { &[] };
        Ok(Self { program: [prologue, &program].concat().into(), flags: flags(seccomp) })
    }

    /// Applies it to this thread, which must be the process's only one, for good. Needs `CAP_SYS_ADMIN`, or that the
    /// process can gain no privileges.
    pub fn apply(&self) -> std::io::Result<()> {
        let length = u16::try_from(self.program.len()).map_err(std::io::Error::other)?;
        let program = libc::sock_fprog { len: length, filter: self.program.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which lives through the call and is as long as it says.
        let status = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &raw const program)
        };
        if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    action: ScmpAction,
) -> std::result::Result<(), SeccompError> {
    let arguments: Vec<_> = rule.args().iter().flatten().map(comparison).collect();
    let is_twice =
        |index: u32| rule.args().iter().flatten().filter(|one| one.index() as u32 == index).nth(1).is_some();
    let has_one_twice = rule.args().iter().flatten().any(|one| is_twice(one.index() as u32));
    for name in rule.names() {
        // A name that is not known is none of this kernel's.
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        if has_one_twice {
            // One rule may ask once for an argument; runc takes several for alternatives.
            for argument in &arguments {
                context.add_rule_conditional(action, call, std::slice::from_ref(argument))?;
            }
        } else {
            context.add_rule_conditional(action, call, &arguments)?;
        }
    }
    Ok(())
}

/// For a masked comparison `value` is the mask, and `valueTwo` what is left (OCI runtime specification, as runc reads it).
fn comparison(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), second),
    };
    ScmpArgCompare::new(argument.index() as u32, operator, value)
}

fn action(action: LinuxSeccompAction, number: Option<u32>) -> Result<ScmpAction> {
    let number = number.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(number.cast_signed()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(number as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::Runtime("a seccomp profile that notifies somebody is not supported".into()));
        }
    })
}

/// The architectures whose programs this guest runs.
fn known(architecture: Arch) -> Result<ScmpArch> {
    match architecture {
        Arch::ScmpArchNative => Ok(ScmpArch::Native),
        Arch::ScmpArchX86_64 => Ok(ScmpArch::X8664),
        Arch::ScmpArchX86 => Ok(ScmpArch::X86),
        Arch::ScmpArchX32 => Ok(ScmpArch::X32),
        other => Err(Error::Runtime(format!("a seccomp profile for {other:?} is not for this guest"))),
    }
}

fn flags(seccomp: &LinuxSeccomp) -> libc::c_ulong {
    let of = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // There is one thread, and nobody is notified.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync
        | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    seccomp.flags().iter().flatten().map(of).fold(0, |all, one| all | one)
}

fn export(context: &ScmpFilterContext) -> Result<Vec<libc::sock_filter>> {
    const WHAT: &str = "compile a seccomp profile";
    let file = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).map_err(Error::io(WHAT))?;
    context.export_bpf(&file).map_err(|e| Error::Runtime(format!("cannot {WHAT}: {e}")))?;
    let (mut file, mut bytes) = (std::fs::File::from(file), Vec::new());
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(Error::io(WHAT))?;
    let (instructions, _) = bytes.as_chunks::<{ size_of::<libc::sock_filter>() }>();
    Ok(instructions.iter().map(instruction).collect())
}

fn instruction(bytes: &[u8; 8]) -> libc::sock_filter {
    let [code_low, code_high, jt, jf, k @ ..] = *bytes;
    libc::sock_filter { code: u16::from_ne_bytes([code_low, code_high]), jt, jf, k: u32::from_ne_bytes(k) }
}

/// The instructions before all others.
fn tells_what_is_not_there() -> [libc::sock_filter; 3] {
    let one = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        one(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        one(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, LAST_CALL),
        one(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
    ]
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use serde_json::{Value, json};

    use super::*;

    /// What a call gives, by its error, in a process of its own that `profile` filters.
    fn under(profile: &Value, call: libc::c_long, first: u64) -> i32 {
        let filter = Filter::compile(&serde_json::from_value(profile.clone()).unwrap()).unwrap();
        // SAFETY: the child calls nothing that another thread's lock could hold up.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // SAFETY: plain numbers; what is called with them is refused or has no use for pointers.
                let status = unsafe {
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                    if filter.apply().is_err() {
                        libc::_exit(255);
                    }
                    libc::syscall(call, first, 0, 0, 0)
                };
                let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                // SAFETY: the child of a test has nothing to clean up.
                unsafe { libc::_exit(if status < 0 { error } else { 0 }) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, status) => status,
                other => panic!("{other:?}"),
            },
        }
    }

    fn profile(rules: Value) -> Value {
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules })
    }

    #[test]
    fn a_masked_comparison_has_its_mask_first() {
        let allow =
            |names: &[&str], args: Value| json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": args });
        let rules = json!([
            allow(&["exit", "exit_group", "write", "no_such_call"], json!([])),
            allow(
                &["personality"],
                json!([{ "index": 0, "value": 0xf0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ" }])
            ),
        ]);
        let profile = profile(rules);
        assert_eq!(under(&profile, libc::SYS_personality, 0x20), libc::EPERM);
        assert_ne!(under(&profile, libc::SYS_personality, 0x1f), libc::EPERM);
        assert_eq!(under(&profile, libc::SYS_getppid, 0), libc::EPERM, "what is not named");
    }

    #[test]
    fn a_call_that_the_kernel_does_not_have_is_told_as_such() {
        let rules = json!([{ "names": ["exit", "exit_group"], "action": "SCMP_ACT_ALLOW" }]);
        assert_eq!(under(&profile(rules), 451, 0), libc::ENOSYS);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let foreign = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"] });
        let notified = json!({ "defaultAction": "SCMP_ACT_NOTIFY" });
        for bad in [foreign, notified] {
            assert!(Filter::compile(&serde_json::from_value(bad.clone()).unwrap()).is_err(), "{bad}");
        }
    }
}
