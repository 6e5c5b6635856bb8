//! Import of files of the Qt sysadm: one written by its library and one written by hand.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Cli, Directory, Finished, Setup};

use super::PROGRAM;

fn legacy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legacy").join(name)
}

/// A configuration with a state directory that does not exist yet.
struct Fixture {
    directory: Directory,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = Directory::new().unwrap();
        let (state, relay) = (directory.join("new/state"), directory.join("new/relay"));
        let text = format!("[paths]\nstate = {state:?}\n[relay]\nstate = {relay:?}\nuser = \"\"\n");
        fs::write(directory.join("c.toml"), text).unwrap();
        Fixture { directory }
    }

    fn import(&self, words: &[&str], files: &[&Path]) -> Finished {
        let config = self.directory.join("c.toml");
        Cli::of(PROGRAM, "import-legacy")
            .arg("-c")
            .arg(config)
            .args(words)
            .args(files)
            .run()
            .unwrap()
    }

    /// User, first line of the key's PEM, whether it is legacy.
    fn keys(&self, of: &str) -> Vec<Value> {
        let path = self.directory.join("new").join(of).join("keys");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn import_prints_settings_that_the_daemon_accepts() {
    let place = Fixture::new();
    let imported = place.import(&[], &[&legacy("sysadm.conf")]);
    assert_eq!(imported.code(), 0, "{}", imported.err);
    assert!(
        imported.out.contains("listen = [\"0.0.0.0:12155\", \"[::]:12155\"]"),
        "{}",
        imported.out
    );
    for line in ["[auth]", "block_time = \"90m\"", "fail_limit = 7", "fail_window = \"15m\""] {
        assert!(imported.out.lines().any(|said| said == line), "{line}: {}", imported.out);
    }
    // Reported, although it requires no action.
    assert!(imported.err.contains("sysadm.conf:7: PORT_REST"), "{}", imported.err);
    let file = place.directory.join("new.toml");
    fs::write(&file, &imported.out).unwrap();
    let checked = Cli::of(PROGRAM, "check").arg("-c").arg(&file).run().unwrap();
    assert_eq!(checked.code(), 0, "{}", checked.err);
}

#[test]
fn import_of_default_conf_exits_with_0() {
    let place = Fixture::new();
    let file = place.directory.join("sysadm.conf");
    let text = "# - Connections to bridges (WebSocket \nonly)\nPORT=12150\nPORT_REST=12151\n\
                BRIDGE_CONNECTIONS_ONLY=false #[true/false]\n\n#   (Note: of failures)\n\
                BLACKLIST_AUTH_FAIL_LIMIT=5\n\n";
    fs::write(&file, text).unwrap();
    let imported = place.import(&[], &[&file]);
    assert_eq!(imported.code(), 0, "{}", imported.err);
    assert!(imported.out.contains("12150") && imported.out.contains("fail_limit = 5"));
}

#[test]
fn a_value_that_no_daemon_takes_is_left_out_and_named() {
    let place = Fixture::new();
    let file = place.directory.join("sysadm.conf");
    fs::write(&file, "BLACKLIST_AUTH_FAIL_LIMIT=0\nPORT=12150\n").unwrap();
    let imported = place.import(&[], &[&file]);
    assert_eq!(imported.code(), 1);
    assert!(
        imported.err.contains("sysadm.conf:1: BLACKLIST_AUTH_FAIL_LIMIT: auth.fail_limit: 0 "),
        "{}",
        imported.err
    );
    assert!(!imported.out.contains("fail_limit"), "{}", imported.out);
    assert!(imported.out.contains("12150"), "{}", imported.out);
}

#[test]
fn registered_keys_are_registered_here_as_legacy_keys_and_once() {
    let place = Fixture::new();
    let dry = place.import(&["--dry-run"], &[&legacy("sysadm.ini")]);
    assert_eq!(dry.code(), 1, "the file has keys that are none");
    assert!(dry.err.contains("would be registered: RSA key "), "{}", dry.err);
    assert!(!place.directory.join("new").exists());

    for round in 0..2 {
        let imported = place.import(&[], &[&legacy("sysadm.ini")]);
        assert_eq!(imported.code(), 1);
        assert!(imported.err.contains("registered: RSA key "), "{}", imported.err);
        let wrong = [
            "sysadm.ini:2: a key of \"ann\": neither PEM nor base64 of it",
            "sysadm.ini:3: RegisteredCerts/cli-import: a key without a user",
            "sysadm.ini:6: a key of \"root\": the key is registered for another user",
        ];
        for wrong in wrong {
            assert!(imported.err.contains(wrong), "{wrong}: {}", imported.err);
        }
        let keys = place.keys("state");
        let users: Vec<&str> = keys.iter().map(|key| key["user"].as_str().unwrap()).collect();
        assert_eq!(users, ["jürgen", "old"], "round {round}");
        assert!(keys.iter().all(|key| key["legacy"] == true), "{keys:#?}");
        assert_eq!(keys[0]["nickname"], "Jürgen=1");
        assert!(keys[0]["added"].as_str().unwrap().starts_with("2017-01-0"), "{}", keys[0]);
        // Bridges need their fingerprints, so they are left to the operator.
        assert!(
            imported.out.contains("# url = \"wss://bridge.example.net:12149\""),
            "{}",
            imported.out
        );
    }
    let state = fs::metadata(place.directory.join("new/state")).unwrap();
    assert_eq!(state.mode() & 0o777, 0o700);
}

#[test]
fn import_registers_the_peers_of_an_original_bridge() {
    let place = Fixture::new();
    let imported = place.import(&["--bridge"], &[&legacy("sysadm.ini")]);
    let users: Vec<Value> = place.keys("relay").iter().map(|key| key["user"].clone()).collect();
    assert_eq!(users, ["cli-import", "old"], "{}", imported.err);
    assert!(!place.directory.join("new/state").exists());
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_nothing_is_done() {
    let place = Fixture::new();
    let nowhere = place.directory.join("nowhere.conf");
    let imported = place.import(&[], &[&legacy("sysadm.ini"), &nowhere]);
    assert_eq!((imported.code(), &*imported.out), (74, ""));
    assert!(imported.err.contains("nowhere.conf: No such file"), "{}", imported.err);
    assert!(!place.directory.join("new").exists());
    assert_eq!(place.import(&[], &[]).code(), 64);
}

#[test]
fn a_daemon_takes_the_imported_key_of_a_qt_client() {
    // Its user is looked up at authentication; the registration suffices here.
    let setup = Setup::new(PROGRAM).unwrap();
    setup.write().unwrap();
    let imported = Cli::of(PROGRAM, "import-legacy")
        .arg("-c")
        .arg(setup.file())
        .arg(legacy("sysadm.ini"))
        .run()
        .unwrap();
    assert!(imported.err.contains("registered: "), "{}", imported.err);
    let daemon = setup.start().unwrap();
    let listed = Cli::to(&daemon, "call")
        .args(["rpc", "settings", r#"{"action": "list_ssl_certs"}"#])
        .run()
        .unwrap();
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let users: Vec<&String> = listed.as_object().unwrap().keys().collect();
    assert_eq!(users, ["jürgen", "old"]);
}
