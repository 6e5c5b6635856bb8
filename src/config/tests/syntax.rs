//! Files that are not TOML: each fault has its line, and no beginning of a file causes a panic.

use super::*;

#[test]
fn faults_have_their_lines() {
    for (text, line, fragment) in [
        ("[server]\nlisten = [\n\"127.0.0.1:1\",\n", 2, "unclosed array"),
        ("[server]\nsocket = \"abc\n", 2, "invalid basic string"),
        ("[server]\nsocket\n[auth]\n", 2, "key with no value"),
        ("[server\n[auth]\n", 1, "unclosed table"),
        ("[auth]\npam = true\npam = false\n", 3, "duplicate key: \"pam\""),
        ("[auth]\n[log]\n[auth]\n", 3, "duplicate key: \"auth\""),
        ("[server]\nauth_timeout = 30s\n", 2, "string values must be quoted"),
        ("[server]\r\n\r\noutbox = \"\\q\"\r\n", 3, "escape"),
        ("= 1", 1, "unquoted keys cannot be empty"),
    ] {
        let all = faults(text);
        let start = format!("f:{line}: ");
        assert!(
            all.len() == 1 && all[0].starts_with(&start) && all[0].contains(fragment),
            "{all:#?}"
        );
    }
}

#[test]
fn faulty_line_is_reported_once_and_others_too() {
    let all = faults("[server]\nauth_timeout = 30s\nlisen = []\nmax_clients = 0\n");
    assert_eq!(all.len(), 3, "{all:#?}");
    assert!(all[0].starts_with("f:2: string values must be quoted"), "{}", all[0]);
    assert!(all[1].starts_with("f:3: unknown key \"lisen\""), "{}", all[1]);
    assert!(all[2].starts_with("f:4: server.max_clients: 0 is out"), "{}", all[2]);
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("[server]\nhosts = {}{}", "[".repeat(50_000), "]".repeat(50_000));
    assert!(faults(&deep).iter().all(|fault| fault.starts_with("f:2: ")));
    assert!(!faults(&deep).is_empty());
    let dotted = format!("# {}\n[server]\n{}x = 1\n", ".".repeat(90), "x.".repeat(90));
    assert!(faults(&dotted).iter().any(|fault| fault == "f:3: recursion limit"));
}

#[test]
fn any_beginning_of_a_good_file_is_judged_without_a_panic() {
    let sample = sample_in_force();
    for end in (0..sample.len()).step_by(7).filter(|end| sample.is_char_boundary(*end)) {
        for fault in faults(&sample[..end]) {
            assert!(fault.starts_with("f:"), "{fault}");
        }
    }
}

/// Each text lacks `]`, `}` or a quote in line 2, where its one fault is, and another in the last
/// line.
#[test]
fn unclosed_value_is_one_fault_and_the_rest_is_checked() {
    let rest = "max_clients = 5\nsocket_mode = \"0600\"\n\n[[bridge.link]]\nname = \"a\"\nurl = \"wss://h\"\n";
    let rest = format!("{rest}fingerprint = \"{}\"\n[log] # [\nfoo = 1\n", "0".repeat(64));
    for (value, fragment) in [
        ("listen = [\"127.0.0.1:1\"", "unclosed array, expected `]`"),
        ("listen = [ # ]", "unclosed array"),
        ("listen =[\n  \"127.0.0.1:1\",\n  '[::1]:1', # é\n", "unclosed array"),
        ("listen = [\"127.0.0.1:1", "unclosed string"),
        ("listen = [\"127.0.0.1:1]", "unclosed string"),
        ("listen = [[\"a\"], { a = [1, 2 }", "unclosed"),
        ("listen = { a = 1, b = [2]", "unclosed inline table, expected `}`"),
    ] {
        let all = faults(&format!("[server]\n{value}\n{rest}"));
        assert_eq!(all.len(), 2, "{value}: {all:#?}");
        assert!(all[0].starts_with("f:2: ") && all[0].contains(fragment), "{}", all[0]);
        assert!(all[1].contains("unknown key \"foo\" in [log]"), "{}", all[1]);
    }
    let twice = faults(
        "[auth]\nfull_access_groups = [\nread_only_groups = [\"a\"\n[log]\nlevel = \"info\"",
    );
    assert_eq!(twice.len(), 2, "{twice:#?}");
    assert!(twice[0].starts_with("f:2: ") && twice[1].starts_with("f:3: "), "{twice:#?}");
    let long = format!("[server]\nlisten = {}\"a\"\n", "[".repeat(40));
    assert_eq!(faults(&long).len(), 1, "{:#?}", faults(&long));
}
