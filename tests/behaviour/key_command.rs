//! The `key` command, and the effect of `--key` on all others.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use support::{Cli, Daemon, Directory, Finished, Key, Setup};

use super::{PROGRAM, ourselves};

fn setup() -> Setup {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
    let state = format!("{:?}", setup.directory().join("relay"));
    let setup = setup.with("relay.state", state).with("relay.user", r#""""#);
    setup.write().unwrap();
    setup
}

fn key(setup: &Setup, arguments: &[&str]) -> Finished {
    Cli::of(PROGRAM, "key").arg("-c").arg(setup.file()).args(arguments).run().unwrap()
}

fn listed(setup: &Setup, more: &[&str]) -> Vec<Value> {
    let list = key(setup, &[&["list", "--json"], more].concat());
    assert_eq!((list.code(), list.err.as_str()), (0, ""));
    serde_json::from_str(&list.out).unwrap()
}

/// A key created by the command: its file and its id.
fn generate(directory: &Directory, name: &str, more: &[&str]) -> (PathBuf, String) {
    let file = directory.join(name);
    let made = Cli::of(PROGRAM, "key").arg("generate").arg(&file).args(more).run().unwrap();
    assert_eq!((made.code(), made.err.as_str()), (0, ""));
    (file, made.out.trim().to_owned())
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn generated_keys_are_private_never_replaced_and_valid() {
    let directory = Directory::new().unwrap();
    for (name, more) in [("ed", &[][..]), ("rsa", &["--rsa"])] {
        let (file, id) = generate(&directory, name, more);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = fs::read(&file).unwrap();
        let again = Cli::of(PROGRAM, "key").arg("generate").arg(&file).run().unwrap();
        assert_ne!(again.code(), 0);
        assert!(again.err.contains(text(&file)), "{}", again.err);
        assert_eq!(fs::read(&file).unwrap(), before);
        fs::remove_file(&file).unwrap();
        let half = Cli::of(PROGRAM, "key").arg("generate").arg(&file).run().unwrap();
        assert!(half.code() != 0 && !file.exists(), "{}", half.err);
        fs::write(&file, before).unwrap();
        let read = Command::new("openssl")
            .args(["pkey", "-check", "-pubout", "-in", text(&file)])
            .output();
        let Ok(read) = read else { return support::skip("there is no openssl") };
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let public = fs::read_to_string(directory.join(&format!("{name}.pub"))).unwrap();
        assert!(String::from_utf8(read.stdout).unwrap().ends_with(&public));
        assert_eq!(id.len(), 44);
    }
}

#[test]
fn a_key_for_which_there_is_no_room_leaves_nothing_behind() {
    let directory = Directory::new().unwrap();
    let file = directory.join("k");
    let full = "trap '' XFSZ; ulimit -f 0; exec \"$0\" key generate \"$1\"";
    let tried = Command::new("sh").args(["-c", full, PROGRAM]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&tried.stderr);
    assert!(!tried.status.success() && said.contains("cannot make"), "{said}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    generate(&directory, "k", &[]);
}

#[test]
fn a_full_disk_costs_no_key_that_is_registered() {
    let setup = setup();
    let directory = Directory::new().unwrap();
    let files = ["a", "b", "c", "d", "e"].map(|name| generate(&directory, name, &[]).0);
    let (last, first) = files.split_last().unwrap();
    let user = ourselves().0;
    for file in first {
        assert_eq!(key(&setup, &["add", &user, text(file)]).code(), 0);
    }
    let store = setup.directory().join("state/keys");
    let before = fs::read_to_string(&store).unwrap() + "junk\n";
    fs::write(&store, &before).unwrap();
    let file = setup.file();
    for _ in 0..2 {
        // Room for a few hundred bytes, and so for the file set aside.
        let full = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
        let add = ["-c", full, PROGRAM, "key", "-c", text(&file), "add", &user];
        let tried = Command::new("sh").args(add).arg(last).output().unwrap();
        let said = String::from_utf8_lossy(&tried.stderr);
        assert!(!tried.status.success() && said.contains("cannot change"), "{said}");
        assert_eq!(fs::read_to_string(&store).unwrap(), before);
    }
    assert_eq!(key(&setup, &["add", &user, text(last)]).code(), 0);
    assert_eq!(listed(&setup, &[]).len(), 5);
    let aside = fs::read_to_string(store.with_extension("damaged")).unwrap();
    assert_eq!(aside, "junk\n", "the damaged line is kept, and once");
}

#[test]
fn a_key_that_was_made_here_runs_a_job_there() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let (user, _) = ourselves();
    for (name, more) in [("ed", &[][..]), ("rsa", &["--rsa"])] {
        let (file, id) = generate(daemon.directory(), name, more);
        let command = |command: &str| {
            let url = format!("wss://{}", daemon.tls());
            let cli = Cli::of(PROGRAM, command).args(["--url", &url]).arg("--key").arg(&file);
            cli.args(["--fingerprint", daemon.fingerprint()])
        };
        let refused = command("status").run().unwrap();
        assert_eq!(refused.code(), 77);
        assert!(refused.err.contains("no registered key"), "{}", refused.err);
        let before = daemon.log().lines().len();
        let added = key(&setup, &["add", &user, &format!("{}.pub", text(&file))]);
        assert_eq!((added.code(), added.out.trim()), (0, &*id), "{}", added.err);
        daemon.log().wait_from(before, "registered keys: ").unwrap();
        let ran = command("run").args(["--id", name, "echo hello"]).run().unwrap();
        assert_eq!((ran.code(), ran.out.as_str()), (0, "hello\n"), "{}", ran.err);
        let line = format!("audit: submitted job={name:?} user={user:?} role=full by=\"key\"");
        daemon.log().wait(&line).unwrap();
        // The same without TLS, without a certificate to sign for.
        let plain = format!("ws://{}", daemon.plain());
        let plain = Cli::of(PROGRAM, "call").args(["--url", &plain]).arg("--key").arg(&file);
        assert_eq!(plain.args(["rpc", "query"]).run().unwrap().code(), 0);
    }
}

#[test]
fn signature_is_sent_to_the_pinned_certificate_only() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let (file, _) = generate(daemon.directory(), "mine", &[]);
    let other = "11".repeat(32);
    let call = Cli::of(PROGRAM, "call")
        .args(["--url", &format!("wss://{}", daemon.tls()), "--fingerprint", &other])
        .arg("--key")
        .arg(file);
    let refused = call.args(["rpc", "query"]).run().unwrap();
    assert_eq!(refused.code(), 76, "{}", refused.err);
    assert!(refused.err.contains(&other), "{}", refused.err);
}

#[test]
fn keys_are_added_from_every_form_listed_and_revoked_by_id() {
    let setup = setup();
    let (user, _) = ourselves();
    let (Some(ed25519), Some(rsa)) = (Key::ed25519().unwrap(), Key::rsa().unwrap()) else { return };
    assert!(key(&setup, &["list"]).err.contains("no keys"));
    let id = rsa.id().unwrap();
    assert_eq!(key(&setup, &["add", &user, text(&ed25519.private())]).code(), 0);
    let certificate = setup.directory().join("certificate.pem");
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-new", "-subj", "/CN=x", "-key", text(&rsa.private()), "-out"])
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success());
    assert_eq!(key(&setup, &["add", &user, text(&certificate), "--legacy"]).code(), 0);
    let all = listed(&setup, &[]);
    assert_eq!(all.len(), 2);
    assert_eq!((&all[1]["id"], &all[1]["user"]), (&id.clone().into(), &user.clone().into()));
    assert_eq!((&all[1]["kind"], &all[1]["legacy"]), (&"RSA".into(), &true.into()));
    assert_eq!(all[1]["checksum"], rsa.checksum().unwrap());
    assert_eq!(all[1]["key"], fs::read_to_string(rsa.public()).unwrap());
    let table = key(&setup, &["list"]).out;
    assert!(table.starts_with("KEY "), "{table}");
    assert!(table.contains(&id[..16]) && table.contains("RSA legacy"), "{table}");
    // Ambiguous, unknown, or another user's.
    for (of, what) in [(&*user, ""), (&user, "nosuch"), ("no-such-user", &id)] {
        let refused = key(&setup, &["revoke", of, what]);
        assert_eq!(refused.code(), 1, "{what:?}: {}", refused.err);
    }
    assert_eq!(key(&setup, &["revoke", &user, &id[..8]]).out.trim(), id);
    assert_eq!(key(&setup, &["revoke", &user, text(&ed25519.public())]).code(), 0);
    assert!(listed(&setup, &[]).is_empty());
}

#[test]
fn invalid_key_is_rejected_with_the_reason() {
    let setup = setup();
    let (user, _) = ourselves();
    let (Some(one), Some(rsa)) = (Key::ed25519().unwrap(), Key::rsa().unwrap()) else { return };
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/");
    let refused = |arguments: &[&str], why: &str| {
        let refused = key(&setup, arguments);
        assert_eq!(refused.code(), 64, "{}", refused.err);
        assert!(refused.err.contains(why), "{why}: {}", refused.err);
    };
    let one_file = one.public();
    let one_file = text(&one_file);
    refused(&["add", "no-such-user-here", one_file], "no user \"no-such-user-here\"");
    refused(&["add", &user, "/nothing/here"], "/nothing/here");
    refused(&["add", &user, &format!("{keys}refused-p256.pem")], "neither");
    refused(&["add", &user, &format!("{keys}refused-rsa1024.pem")], "1024 bits");
    refused(&["add", &user, &format!("{keys}refused-passphrase.pem")], "ENCRYPTED");
    refused(&["add", &user, one_file, "--legacy"], "only an RSA key");
    assert_eq!(key(&setup, &["add", "any name", text(&rsa.public()), "--bridge"]).code(), 0);
    refused(&["add", "another", text(&rsa.public()), "--bridge"], "revoke any name");
    refused(&["add", "a\nb", one_file, "--bridge"], "control");
}

#[test]
fn relay_keys_are_separate_and_limited_to_checksums() {
    let setup = setup();
    let Some(one) = Key::ed25519().unwrap() else { return };
    let sum = one.checksum().unwrap();
    let file = one.public();
    const OTHER: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
    let line = ["add", "nas", text(&file), "--bridge", "--sum", &sum, "--sum"];
    let wrong = key(&setup, &[line.as_slice(), &["AAAA"]].concat());
    assert_eq!(wrong.code(), 64);
    assert!(wrong.err.contains("no checksum"), "{}", wrong.err);
    let line = [line.as_slice(), &[OTHER]].concat();
    assert_eq!(key(&setup, &line).code(), 0);
    assert!(listed(&setup, &[]).is_empty());
    let all = listed(&setup, &["--bridge"]);
    assert_eq!((&all[0]["user"], &all[0]["sums"][0]), (&"nas".into(), &sum.into()));
    assert_eq!(all[0]["sums"][1], OTHER);
    assert!(setup.directory().join("relay/keys").exists());
    assert_eq!(key(&setup, &["revoke", "nas", &one.id().unwrap(), "--bridge"]).code(), 0);
    assert!(listed(&setup, &["--bridge"]).is_empty());
}

#[test]
fn server_key_is_created_once_and_can_be_registered() {
    let setup = setup();
    let exported = key(&setup, &["export"]);
    assert_eq!(exported.code(), 0, "{}", exported.err);
    assert!(exported.out.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{}", exported.out);
    assert_eq!(key(&setup, &["export"]).out, exported.out);
    let file = setup.directory().join("state/link-key.pem");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let legacy = key(&setup, &["export", "--legacy"]).out;
    assert_ne!(legacy, exported.out);
    let add = Cli::of(PROGRAM, "key").arg("-c").arg(setup.file());
    let added = add.args(["add", "nas", "-", "--bridge"]);
    let added = added.run_with_input(exported.out.as_bytes()).unwrap();
    assert_eq!(added.code(), 0, "{}", added.err);
    assert_eq!(listed(&setup, &["--bridge"])[0]["key"], exported.out);
}

#[test]
fn daemon_of_another_user_reads_keys_added_by_root() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("only root can start a daemon of somebody else");
    }
    let setup = Setup::new(PROGRAM).unwrap().open_to_all().unwrap().as_user(65534).unwrap();
    let daemon: Daemon = setup.start().unwrap();
    let Some(one) = Key::ed25519().unwrap() else { return };
    let added = key(&setup, &["add", "nobody", text(&one.public())]);
    assert_eq!(added.code(), 0, "{}", added.err);
    daemon.log().wait("registered keys: 1").unwrap();
    let mut peer = support::Peer::connect(&daemon, support::Transport::Tls).unwrap();
    peer.show_key(&one, &daemon, support::Transport::Tls).unwrap();
    let state = setup.directory().join("state");
    for file in ["keys", "keys.lock"] {
        assert_eq!(fs::metadata(state.join(file)).unwrap().uid(), 65534);
    }
}

#[test]
fn root_touches_nothing_that_the_directory_owner_could_not() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("only root could be misled");
    }
    let setup = Setup::new(PROGRAM).unwrap().open_to_all().unwrap().as_user(65534).unwrap();
    setup.write().unwrap();
    let Some(one) = Key::ed25519().unwrap() else { return };
    let theirs = Directory::new().unwrap();
    let secret = theirs.join("of-root");
    let before = "a line of root\n";
    for name in ["keys", "keys.lock", "keys.damaged", "keys.new"] {
        let state = setup.directory().join("state");
        let _ = fs::remove_dir_all(&state);
        fs::create_dir(&state).unwrap();
        nix::unistd::chown(&state, Some(65534.into()), None).unwrap();
        fs::write(&secret, before).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&secret, state.join(name)).unwrap();
        if name == "keys.damaged" {
            fs::write(state.join("keys"), "rubbish\n").unwrap();
            nix::unistd::chown(&state.join("keys"), Some(65534.into()), None).unwrap();
        }
        let added = key(&setup, &["add", "nobody", text(&one.public())]);
        assert!(added.code() == 77 || name == "keys.new", "{name}: {}", added.err);
        assert_eq!(fs::read_to_string(&secret).unwrap(), before, "{name}");
        assert_eq!(fs::metadata(&secret).unwrap().uid(), 0, "{name}");
    }
}
