//! `make install` and `make deinstall`, into an empty directory, and what was installed at work.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Cli, Directory, Setup};

use super::PROGRAM;
use super::service::Service;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// `make` with these arguments in the source tree, which must succeed; returns its output.
fn make(arguments: &[&str]) -> String {
    let output = Command::new("make")
        .current_dir(ROOT)
        // A make that runs these tests must not influence this one.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .args(arguments)
        .arg(format!("BINARY={PROGRAM}"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "make {arguments:?}: {said}");
    said
}

#[test]
fn missing_tools_on_freebsd_are_named_as_packages() {
    // A FreeBSD without any package, as far as the script can see.
    let directory = Directory::new().unwrap();
    let uname = directory.join("uname");
    fs::write(&uname, "#!/bin/sh\necho FreeBSD\n").unwrap();
    fs::set_permissions(&uname, fs::Permissions::from_mode(0o755)).unwrap();
    let makefile = fs::read_to_string(Path::new(ROOT).join("Makefile")).unwrap();
    let line = |of: &str| {
        let rest = makefile.split_once(of).unwrap().1;
        rest.split_once("provide.sh ").unwrap().1.lines().next().unwrap().to_owned()
    };
    for (target, expected) in [
        ("\ntest:", "missing; as root: pkg install rust bash python3 haproxy msmtp\n"),
        ("\nlint:", "missing; as root: pkg install rust hs-ShellCheck bash zsh fish\n"),
    ] {
        let output = Command::new("/bin/sh")
            .arg(Path::new(ROOT).join("scripts/provide.sh"))
            .args(line(target).split_whitespace())
            .env("PATH", directory.path())
            .output()
            .unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    }
}

/// All files under a directory, relative to it.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn argument(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Installs for a system into a staging directory: the files, below the prefix. On Linux PAM and
/// fish look in directories that are not below it.
fn stage(system: &str, directory: &Directory) -> BTreeSet<String> {
    let stage = argument("DESTDIR", directory.path());
    let prefix = "PREFIX=/opt/here";
    make(&["install", &stage, prefix, &format!("SYSTEM={system}")]);
    let all = files(directory.path());
    let elsewhere: Vec<&String> =
        all.iter().filter(|file| file.strip_prefix("opt/here/").is_none()).collect();
    let known = ["etc/fish/completions/sysadm-events.fish", "etc/pam.d/sysadm-events.sample"];
    assert_eq!(elsewhere, if system == "Linux" { &known[..] } else { &[] });
    all.iter().filter_map(|file| file.strip_prefix("opt/here/").map(str::to_owned)).collect()
}

#[test]
fn deinstall_removes_exactly_the_installed_files() {
    for system in ["FreeBSD", "Linux", "OpenBSD"] {
        let directory = Directory::new().unwrap();
        let foreign = directory.join("opt/here/share/doc/foreign");
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        fs::write(&foreign, "").unwrap();
        let installed = stage(system, &directory);
        assert!(installed.len() > 8, "{installed:?}");
        let stage = argument("DESTDIR", directory.path());
        make(&["deinstall", &stage, "PREFIX=/opt/here", &format!("SYSTEM={system}")]);
        assert_eq!(files(directory.path()), ["opt/here/share/doc/foreign".to_owned()].into());
    }
}

#[test]
fn installed_service_of_each_system_has_no_unresolved_path() {
    for (system, ours, theirs) in [
        ("FreeBSD", "etc/rc.d/sysadm_events", "lib/systemd/system/sysadm-events.service"),
        ("Linux", "lib/systemd/system/sysadm-events.service", "etc/rc.d/sysadm_events"),
    ] {
        let directory = Directory::new().unwrap();
        let installed = stage(system, &directory);
        assert!(installed.contains(ours) && !installed.contains(theirs), "{installed:?}");
        let root = directory.join("opt/here");
        for rules in fs::read_dir(Path::new(ROOT).join("etc/rules")).unwrap() {
            let (name, source) = rules.map(|it| (it.file_name(), it.path())).unwrap();
            let place = root.join("share/examples/sysadm-events/rules").join(name);
            assert_eq!(fs::read(&place).unwrap(), fs::read(source).unwrap(), "{place:?}");
        }
        let service = fs::read_to_string(root.join(ours)).unwrap();
        assert!(service.contains("/opt/here/bin/sysadm-events"), "{service}");
        for file in installed.iter().filter(|file| *file != "bin/sysadm-events") {
            let text = fs::read_to_string(root.join(file)).unwrap();
            assert!(!text.contains("%%PREFIX%%"), "{file}");
        }
    }
}

#[test]
fn port_packs_the_installed_files() {
    let directory = Directory::new().unwrap();
    let installed = stage("FreeBSD", &directory);
    let port = Path::new(ROOT).join("etc/freebsd-port");
    let list = fs::read_to_string(port.join("pkg-plist")).unwrap();
    let packed = list.lines().map(|line| {
        let file = line.strip_prefix("@sample ").unwrap_or(line);
        assert_eq!(file.ends_with(".sample"), line.starts_with('@'), "{line}");
        // The ports tree packs manual pages compressed.
        let page = file.strip_suffix(".gz").filter(|file| file.starts_with("share/man/"));
        page.unwrap_or(file).to_owned()
    });
    assert_eq!(packed.collect::<BTreeSet<_>>(), installed);
    let makefile = fs::read_to_string(port.join("Makefile")).unwrap();
    let version = concat!("DISTVERSION=\t", env!("CARGO_PKG_VERSION"), "\n");
    assert!(makefile.contains(version), "{makefile}");
}

/// Into an empty root, as on a new host.
#[test]
fn installed_daemon_runs_by_its_script_and_configuration() {
    let directory = Directory::new().unwrap();
    let prefix = directory.join("usr/local");
    let place = argument("PREFIX", &prefix);
    make(&["install", &place, "SYSTEM=FreeBSD"]);
    let program = prefix.join("bin/sysadm-events");
    let file = prefix.join("etc/sysadm-events/sysadm-events.toml");
    let check = Cli::of(&program, "check").arg("-c").arg(&file).run().unwrap();
    assert_eq!((check.code(), check.out), (0, format!("{}: ok\n", file.display())));

    let setup = Setup::new(program.to_str().unwrap()).unwrap();
    setup.write().unwrap();
    fs::copy(setup.file(), &file).unwrap();
    let run: PathBuf = setup.directory().join("run");
    let script = fs::read_to_string(prefix.join("etc/rc.d/sysadm_events")).unwrap();
    let service = Service::of(setup, &script);
    // As in an rc.conf, except the directory of the pid files.
    service.write_rc_conf(&["enable=YES", &format!("rundir={}", run.display())]);
    service.well("start");
    let (pid, _) = service.ready(0);
    assert!(service.well("status").contains(&format!("pid {pid}.")));
    let job = service.client("run").arg("echo hello").run().unwrap();
    assert_eq!((job.code(), job.out.as_str()), (0, "hello\n"), "{}", job.err);
    service.well("stop");

    // A file changed by hand stays.
    let said = make(&["deinstall", &place, "SYSTEM=FreeBSD"]);
    assert!(
        said.contains(&format!("left, since it is not as it was installed: {}", file.display()))
    );
    assert_eq!(files(&prefix), ["etc/sysadm-events/sysadm-events.toml".to_owned()].into());
}

/// A second installation, as at an upgrade, preserves the configuration.
#[test]
fn upgrade_preserves_the_configuration() {
    let directory = Directory::new().unwrap();
    let place = argument("PREFIX", directory.path());
    make(&["install", &place, "SYSTEM=Linux"]);
    let file = directory.join("etc/sysadm-events/sysadm-events.toml");
    assert_eq!(fs::read(&file).unwrap(), fs::read(file.with_extension("toml.sample")).unwrap());
    fs::write(&file, "# mine\n").unwrap();
    make(&["install", &place, "SYSTEM=Linux"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "# mine\n");
    fs::copy(file.with_extension("toml.sample"), &file).unwrap();
    make(&["deinstall", &place, "SYSTEM=Linux"]);
    assert_eq!(files(directory.path()), BTreeSet::new());
}
