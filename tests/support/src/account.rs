//! Accounts of the host that exist for one test: real users with real passwords in real groups.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::{Outcome, SLOWNESS, skip};

/// The tools fail while another process changes the same file, and pw(8) may lose a change of two
/// made at once. Tests may be processes of their own, so a lock of the host is held.
fn alone() -> Outcome<File> {
    let directory = File::open("/etc")?;
    directory.lock()?;
    Ok(directory)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn tool(program: &str, arguments: &[&str], input: &str) -> Outcome<()> {
    let _alone = alone()?;
    let mut said = String::new();
    // Another program may have the lock for a moment.
    for _ in 0..50 {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().ok_or("no standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !said.contains("lock") && !said.contains("busy") {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Err(format!("{program} {arguments:?}: {said}").into())
}

/// FreeBSD has pw(8) instead of the shadow tools.
const FREEBSD: bool = cfg!(target_os = "freebsd");

/// Runs the tool of this system with what it takes before the name.
fn change(pw: &[&str], shadow: &[&str], name: &str) -> Outcome<()> {
    let arguments = if FREEBSD { pw } else { shadow };
    let (program, arguments) = arguments.split_first().ok_or("no tool")?;
    // pw(8) takes options after the name only.
    let (before, after) = arguments.split_at(if FREEBSD { 1 } else { arguments.len() });
    tool(program, &[before, &[name], after].concat(), "")
}

fn name(of: &str) -> String {
    format!("se{of}{}x{}", id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A group; removed on drop.
#[derive(Debug)]
pub struct Group(String);

impl Group {
    /// Creates a group.
    pub fn new() -> Outcome<Group> {
        Group::named(&name("g"))
    }

    /// Makes one of that name.
    pub fn named(name: &str) -> Outcome<Group> {
        change(&["pw", "groupadd"], &["groupadd"], name)?;
        Ok(Group(name.to_owned()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = change(&["pw", "groupdel"], &["groupdel"], &self.0);
    }
}

/// A user with a password; removed on drop.
#[derive(Debug)]
pub struct User(String);

impl User {
    /// The password of all of them.
    pub const PASSWORD: &str = "a known pass\u{e9}: \"w0rd\"";

    /// Creates a user in these groups.
    pub fn new(groups: &[&Group]) -> Outcome<User> {
        let name = name("u");
        let pw = ["pw", "useradd", "-g", "nogroup", "-s", "/bin/sh", "-G", &listed(groups)];
        let shadow = ["useradd", "-M", "-N", "-s", "/bin/sh", "-G", &listed(groups)];
        change(&pw, &shadow, &name)?;
        let user = User(name);
        if FREEBSD {
            tool("pw", &["usermod", &user.0, "-h", "0"], &format!("{}\n", User::PASSWORD))?;
        } else {
            tool("chpasswd", &[], &format!("{}:{}\n", user.0, User::PASSWORD))?;
        }
        Ok(user)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Makes it a member of these groups only.
    pub fn join(&self, groups: &[&Group]) -> Outcome<()> {
        let groups = listed(groups);
        change(&["pw", "usermod", "-G", &groups], &["usermod", "-G", &groups], &self.0)
    }

    /// Locks it.
    pub fn lock(&self) -> Outcome<()> {
        change(&["pw", "lock"], &["usermod", "-L"], &self.0)
    }

    /// Sets an expiry date in the past.
    pub fn expire(&self) -> Outcome<()> {
        change(&["pw", "usermod", "-e", "1"], &["usermod", "-e", "1"], &self.0)
    }

    /// Expires its password.
    pub fn expire_password(&self) -> Outcome<()> {
        change(&["pw", "usermod", "-p", "1"], &["chage", "-d", "0"], &self.0)
    }

    /// Removes its password, so that none is needed.
    pub fn without_password(&self) -> Outcome<()> {
        change(&["pw", "usermod", "-w", "none"], &["passwd", "-d"], &self.0)
    }
}

fn listed(groups: &[&Group]) -> String {
    groups.iter().map(|group| group.name()).collect::<Vec<_>>().join(",")
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = change(&["pw", "userdel"], &["userdel"], &self.0);
    }
}

/// A PAM service: a file in the system's directory; removed on drop.
#[derive(Debug)]
pub struct PamService(PathBuf, String);

impl PamService {
    /// The installed service file.
    pub const TEXT: &str = if FREEBSD {
        include_str!("../../../etc/pam.d/sysadm-events.freebsd")
    } else {
        include_str!("../../../etc/pam.d/sysadm-events.linux")
    };

    /// A service in which a wrong password is refused after exactly so many seconds, more on a slow
    /// host.
    pub fn slow_to_refuse(seconds: u32) -> String {
        let seconds = seconds * SLOWNESS;
        if !FREEBSD {
            let delay = seconds * 1_000_000;
            return format!("auth optional pam_faildelay.so delay={delay}\n{}", PamService::TEXT);
        }
        let account: Vec<&str> =
            PamService::TEXT.lines().filter(|line| line.starts_with("account")).collect();
        format!(
            "auth sufficient pam_unix.so no_warn\n\
             auth optional pam_exec.so /bin/sleep {seconds}\n\
             auth required pam_deny.so\n\
             {}\n",
            account.join("\n")
        )
    }

    /// A service that admits only what the file allows: login.access(5), on Linux access.conf(5),
    /// of which `+:user:address` and `-:ALL:ALL` mean the same.
    pub fn restricted_by(file: &Path) -> String {
        let module = if FREEBSD { "pam_login_access.so" } else { "pam_access.so" };
        format!("account required {module} accessfile={}\n{}", file.display(), PamService::TEXT)
    }

    /// Installs a service. `None`, with a message, where that is not possible or there is no PAM.
    pub fn new(text: &str) -> Outcome<Option<PamService>> {
        if !geteuid().is_root() {
            skip("real accounts need root");
            return Ok(None);
        }
        let directory = Path::new("/etc/pam.d");
        let shadow: &[&str] = &["useradd", "chpasswd", "usermod", "chage", "passwd"];
        let tools = if FREEBSD { &["pw"] } else { shadow };
        let is_there = |tool: &&str| {
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
                .iter()
                .any(|place| Path::new(place).join(tool).exists())
        };
        if !directory.is_dir() || !tools.iter().all(is_there) {
            skip("real accounts need PAM, and pw(8) or the shadow tools");
            return Ok(None);
        }
        let name = name("p");
        let path = directory.join(&name);
        fs::write(&path, text)?;
        Ok(Some(PamService(path, name)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.1
    }
}

impl Drop for PamService {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
