//! The state of the system for people: complete the first time, and only changes after that.
//!
//! A host sends all its pools with each event; a person wants to see the one that has just failed.

use serde_json::Value;

use super::escape;
use super::terminal::Terminal;

/// A pool on its line: name, health, priority, capacity, and remarks.
pub(super) type Row = [String; 5];

/// The part of an event to show.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// About the host; empty where a single pool has everything.
    pub(super) text: String,
    /// Pools, each with its changes.
    pub(super) pools: Vec<Row>,
}

/// The changes in `args` since the event `before`.
pub(super) fn news(before: Option<&Value>, args: &Value, terminal: Terminal) -> Shown {
    let pools: Vec<Row> = match before {
        None => {
            let there = pools(args).map(|(name, pool)| row(name, None, Some(pool), terminal));
            there.chain(gone(args, terminal)).collect()
        }
        Some(before) => changes(before, args, terminal),
    };
    let mut notes = Vec::new();
    if let Some(error) = args["zpool_error"].as_str() {
        let error = escape::line(error, terminal.unicode);
        notes.push(format!("{error}; last known: {}", count(args)));
    } else if before.is_some_and(|before| before["zpool_error"].is_string()) {
        notes.push("zpool answers again".to_owned());
    }
    if args["hostnamechanged"] == "true" {
        let was = args["hostname_was"].as_str().map(|was| escape::line(was, terminal.unicode));
        let was = was.map_or(String::new(), |was| format!(", was {was}"));
        notes.push(format!("the host name changed{was}"));
    }
    if before.is_none_or(|before| before["zpools"].is_object() != args["zpools"].is_object()) {
        if args["zpool_error"].is_null() {
            notes.insert(0, count(args));
        }
    } else if notes.is_empty() && pools.is_empty() {
        notes.push(format!("{}, nothing new", count(args)));
    } else if notes.is_empty() && pools.len() > 1 {
        notes.push(count(args));
    }
    Shown { text: notes.join(", "), pools }
}

/// All pools of a state.
pub(super) fn pools(args: &Value) -> impl Iterator<Item = (&String, &Value)> {
    args["zpools"].as_object().into_iter().flatten()
}

/// The number of pools, in words.
pub(super) fn count(args: &Value) -> String {
    match args["zpools"].as_object().map(serde_json::Map::len) {
        None if args["zpool_error"].is_string() => "nothing".to_owned(),
        None => "no ZFS here".to_owned(),
        Some(0) => "no pools".to_owned(),
        Some(1) => "1 pool".to_owned(),
        Some(number) => format!("{number} pools"),
    }
}

/// The keys of a pool whose change is shown.
const SHOWN: [&str; 8] =
    ["health", "priority", "capacity", "status", "errors", "devices", "scan", "action"];

fn changes(before: &Value, args: &Value, terminal: Terminal) -> Vec<Row> {
    let known = |name: &String| before["zpools"].get(name);
    let is_new = |(name, pool): &(&String, &Value)| {
        let same = |key| known(name).is_some_and(|known| known[key] == pool[key]);
        !SHOWN.into_iter().all(same)
    };
    let changed =
        pools(args).filter(is_new).map(|(name, pool)| row(name, known(name), Some(pool), terminal));
    let gone = pools(before).filter(|(name, _)| args["zpools"].get(name).is_none());
    let gone = gone.map(|(name, pool)| match args["zpools_gone"].get(name) {
        Some(gone) => gone_row(name, gone, terminal),
        None => row(name, Some(pool), None, terminal),
    });
    changed.chain(gone).collect()
}

/// Missing pools, each on its line.
pub(super) fn gone(args: &Value, terminal: Terminal) -> impl Iterator<Item = Row> {
    let gone = args["zpools_gone"].as_object().into_iter().flatten();
    gone.map(move |(name, gone)| gone_row(name, gone, terminal))
}

fn gone_row(name: &str, gone: &Value, terminal: Terminal) -> Row {
    let text = |key: &str| escape::line(gone[key].as_str().unwrap_or("?"), terminal.unicode);
    let health = format!("{}{}gone", text("health"), terminal.either(" → ", " -> "));
    let name = escape::line(name, terminal.unicode);
    [name, health, text("priority"), String::new(), text("how")]
}

fn row(name: &str, before: Option<&Value>, pool: Option<&Value>, terminal: Terminal) -> Row {
    let cell = |of: Option<&Value>, key: &str| {
        escape::line(of.and_then(|pool| pool[key].as_str()).unwrap_or(""), terminal.unicode)
    };
    let arrow = terminal.either(" → ", " -> ");
    let from_to = |key: &str| match (before, pool) {
        (Some(_), Some(_)) if cell(before, key) != cell(pool, key) => {
            format!("{}{arrow}{}", cell(before, key), cell(pool, key))
        }
        _ => cell(pool, key),
    };
    let name = escape::line(name, terminal.unicode);
    let Some(pool) = pool else {
        let gone = format!("{}{arrow}gone", cell(before, "health"));
        return [name, gone, String::new(), String::new(), String::new()];
    };
    let capacity = format!("cap {}", from_to("capacity"));
    let remarks = remarks(pool, before, terminal);
    [name, from_to("health"), cell(Some(pool), "priority"), capacity, remarks]
}

/// Remarks on a pool besides its figures, those that are new since `before`.
pub(super) fn remarks(pool: &Value, before: Option<&Value>, terminal: Terminal) -> String {
    let is_new = |key: &&str| before.is_none_or(|before| before[*key] != pool[*key]);
    let said = |key: &str| match key {
        "devices" => devices(&pool[key]),
        "scan" => scan(&pool[key]),
        "action" => pool[key].as_str().map(|action| format!("action: {action}")),
        _ => pool[key].as_str().map(str::to_owned),
    };
    let keys = ["status", "errors", "devices", "scan", "action"].into_iter().filter(is_new);
    let said = keys.filter_map(said).map(|text| escape::line(&text, terminal.unicode));
    said.collect::<Vec<_>>().join("; ")
}

/// `sda1 ONLINE 0/0/442 (resilvering), sdb1 REMOVED`.
fn devices(devices: &Value) -> Option<String> {
    const NAMED: usize = 8;
    let devices = devices.as_array()?;
    let one = |device: &Value| {
        let text = |key: &str| device[key].as_str().unwrap_or("").to_owned();
        let mut shown = format!("{} {}", text("name"), text("state"));
        let counts = ["read", "write", "cksum"].map(text);
        if counts.iter().any(|count| !matches!(count.as_str(), "" | "0")) {
            shown.push_str(&format!(" {}", counts.join("/")));
        }
        match text("note") {
            note if note.is_empty() || note.starts_with('(') => format!("{shown} {note}"),
            note => format!("{shown} ({note})"),
        }
        .trim_end()
        .to_owned()
    };
    let mut shown: Vec<String> = devices.iter().take(NAMED).map(one).collect();
    if devices.len() > NAMED {
        shown.push(format!("{} more", devices.len() - NAMED));
    }
    Some(shown.join(", "))
}

/// `scrub running, 41.10% done, repaired 0B`; `scrub finished, repaired 0B, 0 errors`.
fn scan(scan: &Value) -> Option<String> {
    let mut shown = format!("{} {}", scan["function"].as_str()?, scan["state"].as_str()?);
    for (before, key, after) in
        [("", "done", " done"), ("repaired ", "repaired", ""), ("", "errors", " errors")]
    {
        if let Some(value) = scan[key].as_str() {
            shown.push_str(&format!(", {before}{value}{after}"));
        }
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TERMINAL: Terminal = Terminal { colour: false, unicode: true };

    fn pool(health: &str, priority: &str, capacity: &str) -> Value {
        json!({"health": health, "priority": priority, "capacity": capacity})
    }

    fn shown(before: Option<&Value>, args: &Value) -> Vec<String> {
        let Shown { text, pools } = news(before, args, TERMINAL);
        let rows = pools.iter().map(|row| row.join("  ").trim_end().to_owned());
        [text].into_iter().chain(rows).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn a_change_stands_on_its_line_alone() {
        let fine = pool("ONLINE", "0 - Information", "12%");
        let before = json!({"zpools": {"tank": fine, "other": fine}});
        let now = |tank: Value| json!({"zpools": {"tank": tank, "other": fine}});
        let shown = |tank: Value| shown(Some(&before), &now(tank));
        assert_eq!(
            shown(pool("DEGRADED", "9 - Urgent", "12%")),
            ["tank  ONLINE → DEGRADED  9 - Urgent  cap 12%"]
        );
        assert_eq!(
            shown(pool("ONLINE", "6 - Critical", "91%")),
            ["tank  ONLINE  6 - Critical  cap 12% → 91%"]
        );
        let mut wounded = pool("ONLINE", "7 - Critical", "12%");
        wounded["status"] = "damaged".into();
        assert_eq!(shown(wounded.clone()), ["tank  ONLINE  7 - Critical  cap 12%  damaged"]);
        assert_eq!(shown(fine.clone()), ["2 pools, nothing new"]);
        // A persistent fault is not repeated.
        let healed = now(wounded.clone());
        wounded["capacity"] = "13%".into();
        assert_eq!(
            super::tests::shown(Some(&healed), &now(wounded)),
            ["tank  ONLINE  7 - Critical  cap 12% → 13%"]
        );
    }

    #[test]
    fn pool_line_names_devices_scan_and_action() {
        let fine = json!({"zpools": {"tank": pool("ONLINE", "0 - Information", "12%")}});
        let mut now = fine.clone();
        let tank = &mut now["zpools"]["tank"];
        tank["status"] = "One or more devices".into();
        tank["devices"] = json!([
            {"name": "/v/a b", "state": "ONLINE", "read": "0", "write": "0", "cksum": "442"},
            {"name": "sdb\u{1b}", "state": "UNAVAIL", "read": "0", "write": "0", "cksum": "0",
             "note": "was /dev/sdb1"},
            {"name": "sdc", "state": "ONLINE", "note": "(resilvering)"}]);
        tank["scan"] = json!({"function": "scrub", "state": "running", "done": "1.50%",
                              "repaired": "4K"});
        tank["action"] = "Replace it.".into();
        let said = "tank  ONLINE  0 - Information  cap 12%  One or more devices; /v/a b ONLINE \
                    0/0/442, sdb^[ UNAVAIL (was /dev/sdb1), sdc ONLINE (resilvering); scrub \
                    running, 1.50% done, repaired 4K; action: Replace it.";
        assert_eq!(shown(Some(&fine), &now), [said]);
        // Only its changes.
        let mut later = now.clone();
        later["zpools"]["tank"]["scan"] =
            json!({"function": "scrub", "state": "finished", "repaired": "4K", "errors": "0"});
        assert_eq!(
            shown(Some(&now), &later),
            ["tank  ONLINE  0 - Information  cap 12%  scrub finished, repaired 4K, 0 errors"]
        );
    }

    #[test]
    fn missing_pool_is_shown_with_its_reason() {
        let one = json!({"zpools": {"a b": pool("ONLINE", "0 - Information", "0%")}});
        let gone = |how: &str, priority: &str| {
            json!({"zpools": {}, "zpools_gone": {"a b": {
                "how": how, "health": "ONLINE", "priority": priority}}})
        };
        let vanished = gone("vanished", "7 - Critical");
        let said = "a b  ONLINE → gone  7 - Critical    vanished";
        assert_eq!(shown(Some(&one), &vanished), [said]);
        assert_eq!(shown(None, &vanished), ["no pools", said]);
        assert_eq!(shown(Some(&vanished), &vanished), ["no pools, nothing new"]);
    }

    #[test]
    fn pools_appear_and_disappear() {
        let fine = pool("ONLINE", "0 - Information", "0%");
        let (none, one) = (json!({"zpools": {}}), json!({"zpools": {"a b": fine}}));
        let two = json!({"zpools": {"a b": fine, "c": fine}});
        assert_eq!(shown(None, &none), ["no pools"]);
        assert_eq!(shown(None, &one), ["1 pool", "a b  ONLINE  0 - Information  cap 0%"]);
        assert_eq!(shown(Some(&none), &one), ["a b  ONLINE  0 - Information  cap 0%"]);
        assert_eq!(shown(Some(&one), &none), ["a b  ONLINE → gone"]);
        assert_eq!(
            shown(Some(&two), &none),
            ["no pools", "a b  ONLINE → gone", "c  ONLINE → gone"]
        );
        let no_zfs = json!({});
        assert_eq!(shown(None, &no_zfs), ["no ZFS here"]);
        assert_eq!(shown(Some(&one), &no_zfs), ["no ZFS here", "a b  ONLINE → gone"]);
        assert_eq!(shown(Some(&no_zfs), &none), ["no pools"]);
    }

    #[test]
    fn failure_and_changed_host_name_are_shown() {
        let fine = json!({"zpools": {"tank": pool("ONLINE", "0 - Information", "0%")}});
        let mut failure = fine.clone();
        failure["zpool_error"] = "zpool list\nhangs".into();
        let said = "zpool list\\nhangs; last known: 1 pool";
        assert_eq!(shown(Some(&fine), &failure), [said]);
        assert_eq!(shown(None, &failure), [said, "tank  ONLINE  0 - Information  cap 0%"]);
        assert_eq!(shown(Some(&failure), &fine), ["zpool answers again"]);
        let unknown = json!({"zpool_error": "zpool list hangs"});
        assert_eq!(shown(None, &unknown), ["zpool list hangs; last known: nothing"]);
        let mut renamed = fine.clone();
        renamed["hostnamechanged"] = "true".into();
        assert_eq!(shown(Some(&fine), &renamed), ["the host name changed"]);
        renamed["hostname_was"] = "nas\n".into();
        assert_eq!(shown(Some(&fine), &renamed), ["the host name changed, was nas\\n"]);
    }
}
