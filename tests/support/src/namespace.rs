//! Isolated sites: network namespaces of Linux, joined by virtual interfaces.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::geteuid;

use crate::{Outcome, skip};

/// Two sites, each joined to a third namespace between them, which does not forward. Removed on
/// drop.
#[derive(Debug)]
pub struct Sites(String);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The namespace between the two.
const BETWEEN: &str = "b";

impl Sites {
    /// Addresses of the middle namespace, as reached by the first and the second site.
    pub const BETWEEN: [&str; 2] = ["10.231.1.1", "10.231.2.1"];

    /// Creates them; `None`, with a message, where that is not possible.
    pub fn new() -> Option<Sites> {
        let name = format!("se{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let is_possible = cfg!(target_os = "linux") && geteuid().is_root();
        if !is_possible || !ip(&format!("netns add {name}{BETWEEN}")) {
            skip("network namespaces need Linux, root and ip(8)");
            return None;
        }
        let sites = Sites(name);
        let between = sites.name(BETWEEN);
        for (site, number) in ["1", "2"].into_iter().zip(1..) {
            let here = sites.name(site);
            let lines = [
                format!("netns add {here}"),
                format!("-n {here} link add way type veth peer name site{site} netns {between}"),
                format!("-n {here} addr add 10.231.{number}.2/24 dev way"),
                format!("-n {between} addr add 10.231.{number}.1/24 dev site{site}"),
                format!("-n {here} link set way up"),
                format!("-n {between} link set site{site} up"),
            ];
            if !lines.iter().all(|line| ip(line)) {
                skip("network namespaces cannot be joined here");
                return None;
            }
        }
        Some(sites)
    }

    fn name(&self, place: &str) -> String {
        format!("{}{place}", self.0)
    }

    /// A command that runs another one in the middle namespace.
    pub fn between(&self) -> [String; 4] {
        ["ip".into(), "netns".into(), "exec".into(), self.name(BETWEEN)]
    }

    /// A command that runs another one at a site, 1 or 2.
    pub fn inside(&self, site: &str) -> [String; 4] {
        ["ip".into(), "netns".into(), "exec".into(), self.name(site)]
    }

    /// Runs a function at a site, 1 or 2: sockets created there stay there.
    ///
    /// # Errors The site cannot be entered, or `what` fails.
    #[cfg(target_os = "linux")]
    pub fn at<T: Send>(&self, site: &str, what: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name(site)))?;
        // Only the thread is moved there.
        std::thread::scope(|scope| {
            let there = scope.spawn(|| -> Result<T, String> {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
                    .map_err(|error| error.to_string())?;
                what().map_err(|error| error.to_string())
            });
            Ok(there.join().map_err(|_| "it failed at the site")??)
        })
    }

    /// Runs a function at a site: not on this system.
    #[cfg(not(target_os = "linux"))]
    pub fn at<T: Send>(&self, _: &str, _: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        Err("there are no network namespaces".into())
    }
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split(' ')).output().is_ok_and(|output| output.status.success())
}

impl Drop for Sites {
    fn drop(&mut self) {
        for place in [BETWEEN, "1", "2"] {
            ip(&format!("netns del {}", self.name(place)));
        }
    }
}
