//! The state of the system for people: whole the first time, and from then on what is new in it.
//!
//! A host with many pools sends them all with each event; whoever watches wants the one that has
//! just failed.

use serde_json::Value;

use super::escape;
use super::terminal::Terminal;

/// A pool on its line: name, health, priority, capacity, status.
pub(super) type Row = [String; 5];

/// What is to be shown of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// What concerns the host; nothing where a single pool says it all.
    pub(super) text: String,
    /// Pools, each with what is new of it.
    pub(super) pools: Vec<Row>,
}

/// What is new in `args` since the event `before`.
pub(super) fn news(before: Option<&Value>, args: &Value, terminal: Terminal) -> Shown {
    let pools: Vec<Row> = match before {
        None => pools(args).map(|(name, pool)| row(name, None, Some(pool), terminal)).collect(),
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
        notes.push("the host name changed".to_owned());
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

/// All pools of a state, with whatever the daemon tells of them.
pub(super) fn pools(args: &Value) -> impl Iterator<Item = (&String, &Value)> {
    args["zpools"].as_object().into_iter().flatten()
}

/// How many pools there are, in words.
pub(super) fn count(args: &Value) -> String {
    match args["zpools"].as_object().map(serde_json::Map::len) {
        None if args["zpool_error"].is_string() => "nothing".to_owned(),
        None => "no ZFS here".to_owned(),
        Some(0) => "no pools".to_owned(),
        Some(1) => "1 pool".to_owned(),
        Some(number) => format!("{number} pools"),
    }
}

fn changes(before: &Value, args: &Value, terminal: Terminal) -> Vec<Row> {
    let known = |name: &String| before["zpools"].get(name);
    let is_new = |(name, pool): &(&String, &Value)| {
        let same = |key| known(name).is_some_and(|known| known[key] == pool[key]);
        !["health", "priority", "capacity", "status"].into_iter().all(same)
    };
    let changed =
        pools(args).filter(is_new).map(|(name, pool)| row(name, known(name), Some(pool), terminal));
    let gone = pools(before).filter(|(name, _)| args["zpools"].get(name).is_none());
    changed.chain(gone.map(|(name, pool)| row(name, Some(pool), None, terminal))).collect()
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
    let Some(_) = pool else {
        let gone = format!("{}{arrow}gone", cell(before, "health"));
        return [name, gone, String::new(), String::new(), String::new()];
    };
    let status = if cell(before, "status") == cell(pool, "status") { None } else { pool };
    let capacity = format!("cap {}", from_to("capacity"));
    [name, from_to("health"), cell(pool, "priority"), capacity, cell(status, "status")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TERMINAL: Terminal = Terminal { colour: false, unicode: true };

    fn pool(health: &str, priority: &str, capacity: &str) -> Value {
        json!({"health": health, "priority": priority, "capacity": capacity})
    }

    fn told(before: Option<&Value>, args: &Value) -> Vec<String> {
        let Shown { text, pools } = news(before, args, TERMINAL);
        let rows = pools.iter().map(|row| row.join("  ").trim_end().to_owned());
        [text].into_iter().chain(rows).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn a_change_stands_on_its_line_alone() {
        let fine = pool("ONLINE", "0 - Information", "12%");
        let before = json!({"zpools": {"tank": fine, "other": fine}});
        let now = |tank: Value| json!({"zpools": {"tank": tank, "other": fine}});
        let told = |tank: Value| told(Some(&before), &now(tank));
        assert_eq!(
            told(pool("DEGRADED", "9 - Urgent", "12%")),
            ["tank  ONLINE → DEGRADED  9 - Urgent  cap 12%"]
        );
        assert_eq!(
            told(pool("ONLINE", "6 - Critical", "91%")),
            ["tank  ONLINE  6 - Critical  cap 12% → 91%"]
        );
        let mut wounded = pool("ONLINE", "7 - Critical", "12%");
        wounded["status"] = "damaged".into();
        assert_eq!(told(wounded.clone()), ["tank  ONLINE  7 - Critical  cap 12%  damaged"]);
        assert_eq!(told(fine.clone()), ["2 pools, nothing new"]);
        // What is still wrong is not said again.
        let healed = now(wounded.clone());
        wounded["capacity"] = "13%".into();
        assert_eq!(
            super::tests::told(Some(&healed), &now(wounded)),
            ["tank  ONLINE  7 - Critical  cap 12% → 13%"]
        );
    }

    #[test]
    fn pools_come_and_go() {
        let fine = pool("ONLINE", "0 - Information", "0%");
        let (none, one) = (json!({"zpools": {}}), json!({"zpools": {"a b": fine}}));
        let two = json!({"zpools": {"a b": fine, "c": fine}});
        assert_eq!(told(None, &none), ["no pools"]);
        assert_eq!(told(None, &one), ["1 pool", "a b  ONLINE  0 - Information  cap 0%"]);
        assert_eq!(told(Some(&none), &one), ["a b  ONLINE  0 - Information  cap 0%"]);
        assert_eq!(told(Some(&one), &none), ["a b  ONLINE → gone"]);
        assert_eq!(told(Some(&two), &none), ["no pools", "a b  ONLINE → gone", "c  ONLINE → gone"]);
        let no_zfs = json!({});
        assert_eq!(told(None, &no_zfs), ["no ZFS here"]);
        assert_eq!(told(Some(&one), &no_zfs), ["no ZFS here", "a b  ONLINE → gone"]);
        assert_eq!(told(Some(&no_zfs), &none), ["no pools"]);
    }

    #[test]
    fn trouble_and_another_host_name() {
        let fine = json!({"zpools": {"tank": pool("ONLINE", "0 - Information", "0%")}});
        let mut trouble = fine.clone();
        trouble["zpool_error"] = "zpool list\nhangs".into();
        let said = "zpool list\\nhangs; last known: 1 pool";
        assert_eq!(told(Some(&fine), &trouble), [said]);
        assert_eq!(told(None, &trouble), [said, "tank  ONLINE  0 - Information  cap 0%"]);
        assert_eq!(told(Some(&trouble), &fine), ["zpool answers again"]);
        let unknown = json!({"zpool_error": "zpool list hangs"});
        assert_eq!(told(None, &unknown), ["zpool list hangs; last known: nothing"]);
        let mut renamed = fine.clone();
        renamed["hostnamechanged"] = "true".into();
        assert_eq!(told(Some(&fine), &renamed), ["the host name changed"]);
    }
}
