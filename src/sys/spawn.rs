//! Starts a program without waiting, not even until it is loaded.
//!
//! `posix_spawn` and `std::process::Command` return when the new program runs or could not be
//! started. With the program on a disk that hangs they never return, and would block the poll loop.
//! Here the child is forked and everything that may hang happens in it; a failed start is reported
//! through a small pipe that is read after the child has ended.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, User, fork, getgrouplist, getpid, pipe2, setgid, setgroups, setuid,
};
use serde::{Deserialize, Serialize};

use super::descriptors::DescriptorLimit;
use super::login_class::set_login_name;
use super::parent_death;

/// User of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunAs {
    /// A user by name.
    Name(String),
    /// A user by number; one without a name is used as it is, with a group of the same number.
    Number(u32),
}

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Paths to try, in order; more than one if it was named without a slash.
    pub candidates: &'a [CString],
    /// Its name and arguments.
    pub argv: &'a [CString],
    /// `NAME=value`, except the two below.
    pub env: &'a [CString],
    /// `HOME=…` of the daemon's user; `None` where `env` has one.
    pub home: Option<CString>,
    /// `USER=…` of the daemon's user; `None` where `env` has one.
    pub user: Option<CString>,
    /// Working directory.
    pub cwd: &'a CString,
    /// User of the program; `None` for the daemon's. The look-up may hang, and runs in the child.
    pub run_as: Option<&'a RunAs>,
    /// An open `/dev/null`.
    pub null: RawFd,
    /// Its descriptor limit.
    pub limit: Option<DescriptorLimit>,
    /// Standard error gets a pipe of its own.
    pub errors_apart: bool,
    /// It is killed when the daemon ends, however it ends.
    pub ends_with_us: bool,
}

/// A forked child.
#[derive(Debug)]
pub struct Child {
    /// Leader of a session and process group of its own.
    pub pid: Pid,
    /// Standard output and error, merged in order, or standard output alone; non-blocking.
    pub output: OwnedFd,
    /// Standard error, if requested separately; non-blocking.
    pub errors: Option<OwnedFd>,
    /// Reports why the program could not be started, once the child has ended.
    pub report: Report,
}

/// The step at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Loading the program.
    Run,
    /// Entering its directory.
    Enter,
    /// Becoming its user.
    Become,
    /// Any earlier step.
    Prepare,
}

impl Step {
    fn from_byte(byte: u8) -> Step {
        const ALL: [Step; 4] = [Step::Run, Step::Enter, Step::Become, Step::Prepare];
        ALL.into_iter().find(|step| *step as u8 == byte).unwrap_or(Step::Prepare)
    }
}

/// The end of the pipe through which a child reports a failed start.
#[derive(Debug)]
pub struct Report(std::fs::File);

impl Report {
    /// To be called after the child's end: the failed step, or `None` if the program ran.
    pub fn failure(mut self) -> Option<(Step, io::Error)> {
        let mut report_bytes = [0; 5];
        match self.0.read(&mut report_bytes) {
            Ok(5) => {
                let errno = i32::from_ne_bytes([
                    report_bytes[1],
                    report_bytes[2],
                    report_bytes[3],
                    report_bytes[4],
                ]);
                Some((Step::from_byte(report_bytes[0]), io::Error::from_raw_os_error(errno)))
            }
            Ok(_) | Err(_) => None,
        }
    }
}

/// Forks, and starts `program` in the child. An error means that there is no child.
pub fn spawn(program: &Program<'_>) -> io::Result<Child> {
    let (output, child_output) = output_pipe()?;
    let (errors, child_errors) = match program.errors_apart {
        true => output_pipe().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        false => (None, None),
    };
    let parent = getpid();
    let (report, child_report) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let argv = pointers(program.argv);
    let held = super::signals::Held::all();

    // SAFETY: the process has one thread, so the child's memory is consistent; it never returns
    // from here.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(held);
            Ok(Child { pid: child, output, errors, report: Report(std::fs::File::from(report)) })
        }
        ForkResult::Child => {
            if program.ends_with_us {
                parent_death::end_with(parent);
            }
            let output = child_output.as_raw_fd();
            let errors = child_errors.as_ref().map_or(output, AsRawFd::as_raw_fd);
            let prepared = prepare(program, output, errors);
            // The next steps may hang, and must not hold descriptors that the daemon closes
            // meanwhile.
            let report = super::descriptors::close_all_until_exec(child_report);
            let (step, errno) = match prepared {
                Ok(()) => become_program(program, &argv),
                Err(errno) => (Step::Prepare, errno),
            };
            write_report(report.as_raw_fd(), step, errno);
            // SAFETY: ends the child at once, without running the parent's destructors.
            unsafe { libc::_exit(127) }
        }
    }
}

/// A pipe whose read end does not block.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

fn write_report(report: RawFd, step: Step, errno: i32) {
    let number = errno.to_ne_bytes();
    let message = [step as u8, number[0], number[1], number[2], number[3]];
    // SAFETY: the descriptor is open in the child, and the buffer is five local bytes.
    unsafe {
        libc::write(report, message.as_ptr().cast(), message.len());
    }
}

fn errno() -> i32 {
    nix::errno::Errno::last_raw()
}

/// In the child: the steps that cannot hang.
fn prepare(program: &Program<'_>, output: RawFd, errors: RawFd) -> Result<(), i32> {
    super::signals::reset_dispositions();
    // SAFETY: calls with integers, and with pointers to local values that outlive them.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        if libc::setsid() == -1
            || libc::dup2(program.null, 0) == -1
            || libc::dup2(output, 1) == -1
            || libc::dup2(errors, 2) == -1
        {
            return Err(errno());
        }
        libc::umask(0o022);
        if let Some(limit) = program.limit {
            let limit = libc::rlimit { rlim_cur: limit.soft as _, rlim_max: limit.hard as _ };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
    Ok(())
}

/// In the child: the remaining steps, up to `exec`; returns only if one failed.
fn become_program(program: &Program<'_>, argv: &[*const libc::c_char]) -> (Step, i32) {
    let mut env: Vec<CString> = program.env.to_vec();
    let (mut home, mut user) = (program.home.clone(), program.user.clone());
    if let Some(who) = program.run_as {
        match become_user(who) {
            Ok(Some(account)) => {
                let dir = account.dir.into_os_string();
                home = home.and_then(|_| variable("HOME", dir.as_encoded_bytes()));
                user = user.and_then(|_| variable("USER", account.name.as_bytes()));
            }
            Ok(None) => {}
            Err(error) => return (Step::Become, error as i32),
        }
    }
    env.extend(home.into_iter().chain(user));
    let env = pointers(&env);
    // SAFETY: a C string of the caller.
    if unsafe { libc::chdir(program.cwd.as_ptr()) } == -1 {
        return (Step::Enter, errno());
    }
    // SAFETY: both arrays are null-terminated, of C strings that live until the end.
    (Step::Run, unsafe { exec(program, argv, &env) })
}

fn variable(name: &str, value: &[u8]) -> Option<CString> {
    CString::new([name.as_bytes(), b"=", value].concat()).ok()
}

/// Becomes a user, in a session of its own: groups, login name and login class as set by login(1)
/// of FreeBSD, the user last. After that no change is possible.
fn become_user(who: &RunAs) -> Result<Option<User>, Errno> {
    let account = match who {
        RunAs::Name(name) => Some(User::from_name(name)?.ok_or(Errno::ENOENT)?),
        RunAs::Number(number) => User::from_uid(Uid::from_raw(*number))?,
    };
    match (&account, who) {
        (Some(account), _) => {
            let name = CString::new(account.name.as_str()).map_err(|_| Errno::EINVAL)?;
            init_groups(&name, account.gid)?;
            setgid(account.gid)?;
            set_login_name(&name)?;
            super::login_class::enter(&name)?;
            setuid(account.uid)?;
        }
        (None, RunAs::Number(number)) => {
            let gid = Gid::from_raw(*number);
            set_groups(gid, vec![gid])?;
            setgid(gid)?;
            set_login_name(c"")?;
            setuid(Uid::from_raw(*number))?;
        }
        (None, RunAs::Name(_)) => return Err(Errno::ENOENT),
    }
    Ok(account)
}

/// Sets the groups of a user: `gid`, and those of `name` in the group database.
pub(super) fn init_groups(name: &CStr, gid: Gid) -> Result<(), Errno> {
    set_groups(gid, getgrouplist(name, gid)?)
}

/// Sets `gid` as the effective group and `groups` as the supplementary ones, of which `gid` is one.
///
/// On FreeBSD initgroups(3) and setgroups(2) have two meanings: up to 14 the first group becomes
/// the effective one and is not supplementary, since 15 all are supplementary. A program gets the
/// meaning of the release that it was linked for, while id(1) and the kernel's checks are of the
/// release that it runs on. With the effective group before the others, and among them, the result
/// is the same.
fn set_groups(gid: Gid, groups: Vec<Gid>) -> Result<(), Errno> {
    let first = cfg!(target_os = "freebsd").then_some(gid);
    setgroups(&first.into_iter().chain(groups).collect::<Vec<Gid>>())
}

/// Tries each candidate like execvp(3), and returns the most specific error.
///
/// # Safety `argv` and `env` are null-terminated arrays of C strings; the caller is a child after
/// `fork`.
unsafe fn exec(
    program: &Program<'_>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> i32 {
    let mut worst = libc::ENOENT;
    for candidate in program.candidates {
        // SAFETY: by the contract of this function.
        unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            // A directory that cannot be searched is skipped; the others may contain the program.
            libc::EACCES if program.candidates.len() > 1 && !is_seen(candidate) => {}
            libc::EACCES => worst = libc::EACCES,
            libc::ENOEXEC => {
                // A script without an interpreter line: run by sh(1), as every shell does. SAFETY:
                // by the contract of this function.
                unsafe { exec_script(candidate, argv, env) };
                return libc::ENOEXEC;
            }
            other => return other,
        }
    }
    worst
}

fn is_seen(file: &CString) -> bool {
    // SAFETY: a C string of the caller.
    unsafe { libc::access(file.as_ptr(), libc::F_OK) == 0 }
}

/// # Safety
/// As [`exec`].
unsafe fn exec_script(script: &CString, argv: &[*const libc::c_char], env: &[*const libc::c_char]) {
    const SHELL: &CStr = c"/bin/sh";
    let arguments = argv.iter().copied().skip(1).filter(|argument| !argument.is_null());
    let with_shell: Vec<_> = [SHELL.as_ptr(), script.as_ptr()]
        .into_iter()
        .chain(arguments)
        .chain([std::ptr::null()])
        .collect();
    // SAFETY: by the contract of this function; the array is null-terminated.
    unsafe {
        libc::execve(SHELL.as_ptr(), with_shell.as_ptr(), env.as_ptr());
    }
}

/// Opens `/dev/null` for [`Program::null`].
pub fn open_null() -> io::Result<OwnedFd> {
    // SAFETY: a C string literal and flags; the result is checked before it is owned.
    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
