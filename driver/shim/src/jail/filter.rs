//! The system calls of the shim's own threads: those of a machine's owner, of tokio, the sandbox's files and the
//! control socket.

use nix::libc;
use seccompiler::SeccompCmpOp;
use vmm::threads::{Filter, Rule, owner_rules, plain, rule};

use crate::error::Result;

const FILES: [i64; 21] = [
    libc::SYS_fchmod,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_statx,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

const EVENTS_AND_SOCKETS: [i64; 13] = [
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_poll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_uname,
    libc::SYS_getuid,
];

/// Applies the filter to this thread and those that it starts from now on.
pub fn confine_this_thread() -> Result<()> {
    Ok(Filter::new(rules()?, &[libc::SYS_clone3])?.apply()?)
}

fn rules() -> Result<Vec<Rule>> {
    let unix = rule(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?;
    let unix = [libc::SYS_socket, libc::SYS_socketpair].map(|call| (call, vec![unix.clone()])).to_vec();
    Ok([owner_rules()?, plain(&FILES), plain(&EVENTS_AND_SOCKETS), unix].concat())
}
