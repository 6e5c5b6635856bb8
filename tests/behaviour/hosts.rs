//! Hosts by name (`hosts.toml`), the default key, keys of OpenSSH, and `whoami`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::{Cli, Daemon, Directory, Peer, Setup, Transport};

use super::{PROGRAM, ourselves};

/// A daemon, and the configuration directory of a user whose key is the default key.
struct Scene {
    setup: Setup,
    daemon: Daemon,
    config: Directory,
}

impl Scene {
    fn new() -> Scene {
        let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
        let daemon = setup.start().unwrap();
        let scene = Scene { setup, daemon, config: Directory::new().unwrap() };
        let made = Cli::of(PROGRAM, "key").arg("generate").arg(scene.file("key")).run().unwrap();
        assert_eq!((made.code(), &*made.err), (0, ""));
        scene
    }

    fn file(&self, name: &str) -> PathBuf {
        self.config.join("sysadm-events").join(name)
    }

    fn cli(&self, command: &str, words: &[&str]) -> Cli {
        Cli::of(PROGRAM, command).env("XDG_CONFIG_HOME", self.config.path()).args(words)
    }

    fn register(&self, public: &Path) {
        let before = self.daemon.log().lines().len();
        let add = Cli::of(PROGRAM, "key").args(["add", &ourselves().0]).arg(public);
        let added = add.arg("-c").arg(self.setup.file()).run().unwrap();
        assert_eq!(added.code(), 0, "{}", added.err);
        self.daemon.log().wait_from(before, "registered keys: ").unwrap();
    }

    fn write_hosts(&self, text: &str) {
        fs::write(self.file("hosts.toml"), text).unwrap();
    }

    fn url(&self) -> String {
        format!("wss://{}", self.daemon.tls())
    }
}

#[test]
fn key_generate_makes_missing_directories_private() {
    let directory = Directory::new().unwrap();
    let file = directory.join("a/b/key");
    let made = Cli::of(PROGRAM, "key").arg("generate").arg(&file).run().unwrap();
    assert_eq!((made.code(), &*made.err), (0, ""));
    for made in ["a", "a/b"] {
        let mode = fs::metadata(directory.join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{made}");
    }
    assert!(file.exists() && directory.join("a/b/key.pub").exists());
}

#[test]
fn host_name_gives_url_fingerprint_and_key() {
    let scene = Scene::new();
    scene.register(&scene.file("key.pub"));
    fs::rename(scene.file("key"), scene.file("other")).unwrap();
    let (url, fingerprint) = (scene.url(), scene.daemon.fingerprint());
    scene.write_hosts(&format!(
        "[nas]\nurl = {url:?}\nfingerprint = {fingerprint:?}\nkey = \"other\"\n[vm]\nurl = \"wss://h\"\n"
    ));
    let shown = scene.cli("whoami", &["-H", "nas", "--json"]).run().unwrap();
    assert_eq!(shown.code(), 0, "{}", shown.err);
    let who: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!([&who["user"], &who["role"], &who["proof"]], [&*ourselves().0, "full", "key"]);
    assert_eq!(who["key"].as_str().unwrap().len(), 44);
    assert_eq!(who["server"]["type"], "server");
    // An option has precedence.
    let wrong = ["-H", "nas", "--fingerprint", &"0".repeat(64)];
    assert_eq!(scene.cli("jobs", &wrong).run().unwrap().code(), 76);
    let ran = scene.cli("run", &["-H", "nas", "echo hello"]).run().unwrap();
    assert_eq!((ran.code(), &*ran.out), (0, "hello\n"), "{}", ran.err);
    let unknown = scene.cli("jobs", &["-H", "nsa"]).run().unwrap();
    assert_eq!(unknown.code(), 78);
    assert!(unknown.err.contains("\"nsa\"") && unknown.err.contains("nas, vm"), "{}", unknown.err);
    for other in [["--url", &url], ["--socket", "/s"], ["-c", "/c"], ["--via", "vm"]] {
        let refused = scene.cli("jobs", &["-H", "nas"]).args(other).run().unwrap();
        assert_eq!(refused.code(), 64, "{}", refused.err);
        assert!(refused.err.contains("-H names the daemon"), "{}", refused.err);
    }
    scene.write_hosts("[nas]\nurl = \"wss://h\"\nkye = \"k\"\n");
    let faulty = scene.cli("jobs", &["-H", "nas"]).run().unwrap();
    assert_eq!(faulty.code(), 78);
    assert!(faulty.err.contains("hosts.toml:3: unknown key \"kye\""), "{}", faulty.err);
}

#[test]
fn default_key_is_used_where_no_credential_is_given() {
    let scene = Scene::new();
    let url = scene.url();
    let target = ["--url", &url, "--fingerprint", scene.daemon.fingerprint()];
    let refused = scene.cli("whoami", &target).run().unwrap();
    assert_eq!(refused.code(), 77);
    // The command in the message registers the key, as it stands there.
    let line = refused.err.lines().find(|line| line.contains("key add")).unwrap();
    let (public, command) = line.trim().split_once(" | ").unwrap();
    assert_eq!(command, "sysadm-events key add USER -", "{}", refused.err);
    let public = public.strip_prefix("echo '").unwrap().strip_suffix('\'').unwrap();
    assert!(public.starts_with("ssh-ed25519 AAAA"), "{public}");
    fs::write(scene.file("line.pub"), format!("{public}\n")).unwrap();
    scene.register(&scene.file("line.pub"));
    let shown = scene.cli("whoami", &target).run().unwrap();
    assert_eq!(shown.code(), 0, "{}", shown.err);
    assert!(shown.out.contains("role    full\nproof   key "), "{}", shown.out);
    // A token needs no key: this one is damaged and not read.
    fs::write(scene.file("key"), "junk").unwrap();
    fs::write(scene.file("token"), Peer::token(&scene.daemon).unwrap()).unwrap();
    let token = scene.cli("whoami", &target).arg("--token-file").arg(scene.file("token"));
    assert_eq!(token.run().unwrap().code(), 0);
    let damaged = scene.cli("whoami", &target).run().unwrap();
    assert_eq!(damaged.code(), 64);
    assert!(damaged.err.contains(&scene.file("key").display().to_string()), "{}", damaged.err);
}

#[test]
fn openssh_keys_are_registered_and_used_unconverted() {
    let scene = Scene::new();
    let file = scene.file("id_ed25519");
    let generate = |more: &[&str], file: &Path| {
        let mut keygen = Command::new("ssh-keygen");
        let keygen = keygen.args(["-q", "-t", "ed25519", "-C", "ann@nas"]).args(more).arg("-f");
        keygen.arg(file).output()
    };
    let Ok(made) = generate(&["-N", ""], &file) else {
        return support::skip("there is no ssh-keygen");
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    scene.register(&scene.file("id_ed25519.pub"));
    let url = scene.url();
    let target = ["--url", &url, "--fingerprint", scene.daemon.fingerprint(), "--key"];
    let shown = scene.cli("whoami", &target).arg(&file).run().unwrap();
    assert_eq!(shown.code(), 0, "{}", shown.err);
    // The private half names the same key.
    let again = Cli::of(PROGRAM, "key").args(["revoke", &ourselves().0]).arg(&file);
    assert_eq!(again.arg("-c").arg(scene.setup.file()).run().unwrap().code(), 0);
    let locked = scene.file("locked");
    assert!(generate(&["-N", "secret"], &locked).unwrap().status.success());
    let refused = scene.cli("whoami", &target).arg(&locked).run().unwrap();
    assert_eq!(refused.code(), 64);
    assert!(refused.err.contains("passphrase"), "{}", refused.err);
}

#[test]
fn key_add_unprivileged_names_its_file_and_how_to_reach_the_host() {
    let directory = Directory::new().unwrap();
    for path in [directory.path().to_owned(), directory.join("state")] {
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let scene = Scene::new();
    let public = fs::read(scene.file("key.pub")).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    let user = if is_root { "nobody".to_owned() } else { ourselves().0 };
    let mut add = Cli::of(PROGRAM, "key").args(["add", &user, "-"]);
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        add = add.env(name, directory.join("state"));
    }
    if is_root {
        add = add.as_user(65534, 65534);
    }
    let added = add.run_with_input(&public).unwrap();
    assert_eq!(added.code(), 0, "{}", added.err);
    let keys = directory.join("state/sysadm-events/keys").display().to_string();
    for part in [&*keys, "runs as you and no other", "\"sysadm-events key add\" as root"] {
        assert!(added.err.contains(part), "{part}: {}", added.err);
    }
}

#[test]
fn whoami_shows_the_identity_and_identify_the_version() {
    let scene = Scene::new();
    let mut local = Peer::local(&scene.daemon).unwrap();
    let (name, uid) = (ourselves().0, nix::unistd::geteuid().as_raw());
    let who = local.request("rpc", "whoami", &json!({})).unwrap();
    let wanted = json!({ "user": name, "uid": uid, "role": "full", "proof": "local socket" });
    assert_eq!(who, wanted);
    let mut remote = Peer::connect(&scene.daemon, Transport::Tls).unwrap();
    assert_eq!(remote.refused("rpc", "whoami", &json!({})).unwrap().code, 401);
    let server = remote.request("rpc", "identify", &json!("")).unwrap();
    assert_eq!(
        (&server["version"], &server["protocol"]),
        (&env!("CARGO_PKG_VERSION").into(), &2.into())
    );
}
