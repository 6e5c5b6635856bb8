//! The display, line by line.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;

/// Five hours west of Greenwich, so that local time differs.
fn clock(moment: SystemTime) -> Option<LocalTime> {
    let seconds = moment.duration_since(UNIX_EPOCH).ok()?.as_secs() - 5 * 3600;
    let day = 1 + u8::try_from(seconds / 86_400 - 20_780).ok()?;
    let part = |span: u64, of: u64| u8::try_from(seconds / span % of).unwrap();
    let (hour, minute, second) = (part(3600, 24), part(60, 60), part(1, 60));
    Some(LocalTime { year: 2026, month: 11, day, hour, minute, second })
}

fn screen(colour: bool, unicode: bool) -> Screen {
    Screen::new(Terminal { colour, unicode }, clock)
}

fn event(name: &str, second: u32, args: &Value) -> Value {
    json!({"namespace": "events", "name": name, "id": "none", "seq": 1, "epoch": "e",
           "time": format!("2026-11-24T17:00:{second:02}Z"), "args": args})
}

fn job(second: u32, state: &str, more: Value) -> Value {
    let mut args =
        json!({"state": state, "process_id": "nightly", "cmd_list": ["sh -c x", "false"]});
    args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event("dispatcher", second, &args)
}

fn show(screen: &mut Screen, frames: &[Value]) -> String {
    frames.iter().map(|frame| screen.show(frame, UNIX_EPOCH)).collect()
}

#[test]
fn a_job_from_beginning_to_end() {
    let frames = [
        job(1, "pending", json!({})),
        job(1, "running", json!({"current_cmd": "sh -c x"})),
        job(2, "running", json!({"current_cmd": "sh -c x", "sh -c x": "line 1\n"})),
        job(3, "running", json!({"current_cmd": "sh -c x", "sh -c x": "line 2\npar"})),
        job(
            4,
            "running",
            json!({"current_cmd": "false", "sh -c x": "tial\n", "return_codes/sh -c x": "0"}),
        ),
        job(
            5,
            "finished",
            json!({"sh -c x": "line 1\nline 2\npartial\n", "false": "no\n",
            "return_codes/sh -c x": "0", "return_codes/false": "1",
            "time_started": "2026-11-24T17:00:01Z", "time_finished": "2026-11-24T17:00:05Z"}),
        ),
    ];
    assert_eq!(
        show(&mut screen(false, true), &frames),
        "\
12:00:01  ○ pending        nightly   sh -c x && false
12:00:01  ▶ running        nightly   [1/2] sh -c x
          │ line 1
          │ line 2
          │ partial
12:00:04  ▶ running        nightly   [2/2] false
          │ no
12:00:05  ✖ finished       nightly   [2/2] false: exit 1 after 4 s
"
    );
}

#[test]
fn concurrent_jobs_are_distinguished() {
    let of = |id: &str, second, text: &str| {
        let args = json!({"state": "running", "process_id": id, "cmd_list": ["c"], "current_cmd": "c", "c": text});
        event("dispatcher", second, &args)
    };
    let frames = [
        of("a", 1, "1\n"),
        of("b", 1, "2"),
        of("a", 2, "3\n"),
        of("a", 3, "4\n"),
        of("b", 4, "5\n"),
    ];
    assert_eq!(
        show(&mut screen(false, false), &frames),
        "\
12:00:01  > running        a         c
          | 1
12:00:01  > running        b         c
          | 2
12:00:02  : output         a         c
          | 3
          | 4
12:00:04  : output         b         c
          | 5
"
    );
}

#[test]
fn finished_job_seen_late_shows_its_output() {
    let finished = event(
        "dispatcher",
        1,
        &json!({"event_system": "sysadm/pkg", "state": "finished",
        "process_details": {"state": "finished", "process_id": "sysadm_pkg_audit", "cmd_list": ["pkg audit"],
        "pkg audit": "0 problems\n", "return_codes/pkg audit": "0"}}),
    );
    assert_eq!(
        show(&mut screen(false, true), &[finished]),
        "\
12:00:01  ▷ output         sysadm_pkg_audit  pkg audit
          │ 0 problems
12:00:01  ✔ finished       sysadm_pkg_audit  ok
"
    );
}

#[test]
fn prompt_is_shown_at_once_and_ended_before_the_next_line() {
    let mut screen = screen(false, true);
    let prompt = job(1, "running", json!({"current_cmd": "sh -c x", "sh -c x": "50%"}));
    let shown = screen.show(&prompt, UNIX_EPOCH);
    assert!(shown.ends_with("│ 50%"), "{shown}");
    let more = job(1, "running", json!({"current_cmd": "sh -c x", "sh -c x": "60%"}));
    assert_eq!(screen.show(&more, UNIX_EPOCH), "60%");
    assert_eq!(screen.end(), "\n");
    assert_eq!(screen.end(), "");
}

#[test]
fn snapshots_and_replications() {
    let of = |class: &str, priority: &str, message: &str| {
        let args = json!({"message": message, "priority": priority, "class": class});
        event("life_preserver", 7, &args)
    };
    let frames = [
        of("snapshot", "1 - Information", "Mon: New snapshot of tank"),
        of(
            "replication",
            "7 - Critical",
            "Mon: Replication Failed for tank\nLogfile available at: /f",
        ),
    ];
    assert_eq!(
        show(&mut screen(false, true), &frames),
        "\
12:00:07  1 - Information  snapshot  Mon: New snapshot of tank
12:00:07  7 - Critical     replication  Mon: Replication Failed for tank
          │ Logfile available at: /f
"
    );
}

#[test]
fn replication_is_one_line_with_a_bar_below_all_others() {
    let mut screen = screen(false, false).with_bars(|| Some(60));
    let of = |class: &str, message: &str| {
        let args = json!({"message": message, "priority": "1 - Information", "class": class});
        event("life_preserver", 7, &args)
    };
    let mut show = |class: &str, message: &str| screen.show(&of(class, message), UNIX_EPOCH);
    let bar = |amount: &str| format!("          > tank  [{amount}");
    assert_eq!(
        show("replication", "Replicating tank: 1M/4M (25%)"),
        bar("######..................]     25%  1M/4M")
    );
    assert_eq!(
        show("replication", "Replicating tank: 2M/4M (50%)"),
        format!("\r\x1b[J{}", bar("############............]     50%  2M/4M"))
    );
    assert_eq!(
        show("snapshot", "Mon: New snapshot of tank"),
        format!(
            "\r\x1b[J12:00:07  1 - Information  snapshot  Mon: New snapshot of tank\n{}",
            bar("############............]     50%  2M/4M")
        )
    );
    assert_eq!(
        show("replication", "Mon: Finished replication for tank"),
        "\r\x1b[J12:00:07  1 - Information  replication  Mon: Finished replication for tank\n"
    );
    show("replication", "Replicating tank: 2M/4M (50%)");
    assert_eq!(screen.end(), "\n");
}

#[test]
fn a_bar_gives_way_to_half_a_line_of_output() {
    let mut screen = screen(false, false).with_bars(|| Some(60));
    let progress = json!({"message": "Replicating tank: 2M", "priority": "0 - Information", "class": "replication"});
    let progress = event("life_preserver", 1, &progress);
    screen.show(&progress, UNIX_EPOCH);
    let half = job(1, "running", json!({"current_cmd": "sh -c x", "sh -c x": "half"}));
    let shown = screen.show(&half, UNIX_EPOCH);
    assert!(shown.starts_with("\r\x1b[J") && shown.ends_with("| half"), "{shown:?}");
    let rest = job(1, "running", json!({"current_cmd": "sh -c x", "sh -c x": " done\n"}));
    assert_eq!(screen.show(&rest, UNIX_EPOCH), " done\n          > tank  2M");
    screen.show(&half, UNIX_EPOCH);
    assert_eq!(screen.show(&progress, UNIX_EPOCH), "\n          > tank  2M");
}

#[test]
fn where_nothing_can_be_drawn_over_progress_is_lines() {
    let args = json!({"message": "Replicating tank: 2M/4M (50%)", "priority": "0 - Information",
                      "class": "replication"});
    assert_eq!(
        show(&mut screen(false, true), &[event("life_preserver", 7, &args)]),
        "12:00:07  0 - Information  replication  Replicating tank: 2M/4M (50%)\n"
    );
}

#[test]
fn the_state_of_the_system() {
    let pool = |health: &str, priority: &str, capacity: &str| json!({"health": health, "priority": priority, "capacity": capacity});
    let mut zpools = json!({"tank": pool("ONLINE", "0 - Information", "12%"),
                            "backup": pool("DEGRADED", "9 - Urgent", "7%")});
    zpools["backup"]["status"] = json!("One or more devices\nfailed");
    let healed = json!({"tank": pool("ONLINE", "0 - Information", "12%"),
                        "backup": pool("ONLINE", "0 - Information", "7%")});
    let state = |second, host: &str, priority: &str, zpools: &Value| {
        let args = json!({"hostname": host, "priority": priority, "zpools": zpools});
        event("system_state", second, &args)
    };
    let mut renamed = state(4, "nas2", "3 - Warning", &healed);
    renamed["args"]["hostnamechanged"] = "true".into();
    let mut failure = state(5, "nas2", "9 - Urgent", &healed);
    failure["args"]["zpool_error"] = "zpool list did not answer within 10s".into();
    let frames = [
        state(1, "nas", "9 - Urgent", &zpools),
        state(2, "nas", "0 - Information", &healed),
        state(3, "nas", "0 - Information", &healed),
        renamed,
        failure,
        state(6, "nas2", "0 - Information", &json!({})),
        event("system-state", 7, &json!({"hostname": "nas2", "priority": "0 - Information"})),
    ];
    assert_eq!(
        show(&mut screen(false, true), &frames),
        "\
12:00:01  9 - Urgent       nas       2 pools
          │ tank    ONLINE    0 - Information  cap 12%
          │ backup  DEGRADED  9 - Urgent       cap 7%   One or more devices\\nfailed
12:00:02  0 - Information  nas       backup  DEGRADED → ONLINE  0 - Information  cap 7%
12:00:03  0 - Information  nas       2 pools, nothing new
12:00:04  3 - Warning      nas2      the host name changed
12:00:05  9 - Urgent       nas2      zpool list did not answer within 10s; last known: 2 pools
12:00:06  0 - Information  nas2      zpool answers again
          │ tank    ONLINE → gone
          │ backup  ONLINE → gone
12:00:07  0 - Information  nas2      no ZFS here
"
    );
}

#[test]
fn gaps_and_events_of_the_future() {
    let frames = [
        event("gap", 1, &json!({"missed": 12})),
        event("gap", 1, &json!({"missed": null})),
        event("weather", 1, &json!({"sky": "\u{1b}[2Jblue"})),
        event("dispatcher", 1, &json!({"state": "dancing"})),
    ];
    assert_eq!(
        show(&mut screen(false, true), &frames),
        "\
12:00:01  gap                        12 events were missed
12:00:01  gap                        the daemon was started anew; what was missed is not known
12:00:01  event            weather   {\"sky\":\"\\u001b[2Jblue\"}
12:00:01  event            dispatcher  {\"state\":\"dancing\"}
"
    );
}

#[test]
fn a_new_day_is_announced() {
    let mut screen = screen(false, true);
    let at = |hours: u64| UNIX_EPOCH + Duration::from_secs(20_781 * 86_400 + hours * 3600);
    let frame = json!({"namespace": "events", "name": "gap", "args": {"missed": 1}});
    let shown: String = [20, 28, 29, 30].map(|hours| screen.show(&frame, at(hours))).concat();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("15:00:00") && lines[1].starts_with("23:00:00"), "{shown}");
    assert_eq!(lines[2], "--- 2026-11-03 ---");
    assert!(lines[3].starts_with("00:00:00") && lines.len() == 5, "{shown}");
}

#[test]
fn colours_follow_state_and_priority() {
    let mut screen = screen(true, true);
    let pending = screen.show(&job(1, "pending", json!({})), UNIX_EPOCH);
    assert!(pending.starts_with("\x1b[2m12:00:01\x1b[0m  \x1b[34m○ pending"), "{pending:?}");
    for (priority, code) in [
        ("0 - Information", "32"),
        ("5 - Warning", "33"),
        ("8 - Critical", "31"),
        ("10 - Urgent", "1;31"),
    ] {
        let args = json!({"message": "m", "priority": priority, "class": "snapshot"});
        let shown = screen.show(&event("life_preserver", 1, &args), UNIX_EPOCH);
        assert!(shown.contains(&format!("\x1b[{code}m{priority}")), "{shown:?}");
    }
}

#[test]
fn nothing_foreign_drives_the_terminal() {
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\n\0";
    let args = json!({"state": "running", "process_id": evil, "cmd_list": [evil], "current_cmd": evil, evil: evil});
    let frames = [
        event("dispatcher", 1, &args),
        event("life_preserver", 1, &json!({"message": evil, "priority": evil, "class": evil})),
        event(
            "system_state",
            1,
            &json!({"hostname": evil, "priority": evil, "zpool_error": evil,
            "zpools": {evil: {"health": evil, "priority": evil, "capacity": evil, "status": evil}}}),
        ),
        event(evil, 1, &json!({evil: evil})),
    ];
    for unicode in [true, false] {
        let shown = show(&mut screen(false, unicode), &frames);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!shown.contains('\u{202e}'));
    }
}

#[test]
fn only_so_many_jobs_are_remembered() {
    let mut screen = screen(false, false);
    for number in 0..2 * JOBS {
        let args = json!({"state": "pending", "process_id": number.to_string(), "cmd_list": ["c"]});
        screen.show(&event("dispatcher", 1, &args), UNIX_EPOCH);
    }
    assert_eq!(screen.jobs.len(), JOBS);
    let args =
        json!({"state": "finished", "process_id": (2 * JOBS - 1).to_string(), "cmd_list": ["c"]});
    screen.show(&event("dispatcher", 1, &args), UNIX_EPOCH);
    assert_eq!(screen.jobs.len(), JOBS - 1);
}
