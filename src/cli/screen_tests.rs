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
    Screen::new(Terminal { colour, unicode }, clock, Canvas::of_pipe())
}

/// On a terminal of 24 rows and 60 columns, without colours.
fn on_terminal(unicode: bool) -> Screen {
    let terminal = Terminal { colour: false, unicode };
    Screen::new(terminal, clock, Canvas::of_terminal(terminal, || Some((24, 60)), true, true))
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
    frames.iter().map(|frame| screen.show("", frame, UNIX_EPOCH)).collect()
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
12:00:01  ○ nightly pending: 2 commands
12:00:01  ▶ nightly [1/2] sh -c x
            nightly │ line 1
            nightly │ line 2
            nightly │ partial
12:00:04  ▶ nightly [2/2] false
            nightly │ no
12:00:05  ✖ nightly [2/2] false: exit 1 after 4 s
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
12:00:01  > a c
            a | 1
12:00:01  > b c
            a | 3
            a | 4
            b | 25
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
12:00:01  ▶ sysadm_pkg_audit pkg audit
            sysadm_pkg_audit │ 0 problems
12:00:01  ✔ sysadm_pkg_audit ok
"
    );
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
12:00:07  1 snapshot Mon: New snapshot of tank
12:00:07  7 replication Critical: Mon: Replication Failed for tank
            replication │ Logfile available at: /f
"
    );
}

#[test]
fn where_nothing_can_be_drawn_over_progress_is_lines() {
    let args = json!({"message": "Replicating tank: 2M/4M (50%)", "priority": "0 - Information",
                      "class": "replication"});
    assert_eq!(
        show(&mut screen(false, true), &[event("life_preserver", 7, &args)]),
        "12:00:07  0 replication Replicating tank: 2M/4M (50%)\n"
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
12:00:01  9 nas Urgent: 2 pools
            nas │ tank    ONLINE    0 - Information  cap 12%
            nas │ backup  DEGRADED  9 - Urgent       cap 7%   One or more devices\\nfailed
12:00:02  0 nas backup  DEGRADED → ONLINE  0 - Information  cap 7%
12:00:03  0 nas 2 pools, nothing new
12:00:04  3 nas2 Warning: the host name changed
12:00:05  9 nas2 Urgent: zpool list did not answer within 10s; last known: 2 pools
12:00:06  0 nas2 zpool answers again
            nas2 │ tank    ONLINE → gone
            nas2 │ backup  ONLINE → gone
12:00:07  0 nas2 no ZFS here
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
12:00:01  ! 12 events were missed
12:00:01  ! the daemon was started anew; what was missed is not known
12:00:01  ? weather {\"sky\":\"\\u001b[2Jblue\"}
12:00:01  ? dispatcher {\"state\":\"dancing\"}
"
    );
}

#[test]
fn a_new_day_is_announced() {
    let mut screen = screen(false, true);
    let at = |hours: u64| UNIX_EPOCH + Duration::from_secs(20_781 * 86_400 + hours * 3600);
    let frame = json!({"namespace": "events", "name": "gap", "args": {"missed": 1}});
    let shown: String = [20, 28, 29, 30].map(|hours| screen.show("", &frame, at(hours))).concat();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("15:00:00") && lines[1].starts_with("23:00:00"), "{shown}");
    assert_eq!(lines[2], "--- 2026-11-03 ---");
    assert!(lines[3].starts_with("00:00:00") && lines.len() == 5, "{shown}");
}

#[test]
fn colours_follow_state_and_priority() {
    let mut screen = screen(true, true);
    let pending = screen.show("", &job(1, "pending", json!({})), UNIX_EPOCH);
    let expected = "\x1b[2m12:00:01\x1b[0m  \x1b[34m○ nightly\x1b[0m pending";
    assert!(pending.starts_with(expected), "{pending:?}");
    for (priority, code) in [
        ("0 - Information", "32"),
        ("5 - Warning", "33"),
        ("8 - Critical", "31"),
        ("10 - Urgent", "1;31"),
    ] {
        let args = json!({"message": "m", "priority": priority, "class": "snapshot"});
        let shown = screen.show("", &event("life_preserver", 1, &args), UNIX_EPOCH);
        let number = priority.split(' ').next().unwrap();
        assert!(shown.contains(&format!("\x1b[{code}m{number} snapshot")), "{shown:?}");
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
        screen.show("", &event("dispatcher", 1, &args), UNIX_EPOCH);
    }
    assert_eq!(screen.jobs.len(), JOBS);
    let args =
        json!({"state": "finished", "process_id": (2 * JOBS - 1).to_string(), "cmd_list": ["c"]});
    screen.show("", &event("dispatcher", 1, &args), UNIX_EPOCH);
    assert_eq!(screen.jobs.len(), JOBS - 1);
}

/// A running event of `nightly` whose one command is `c`, and the finished one.
fn printing(second: u32, text: &str) -> Value {
    let args = json!({"state": "running", "process_id": "nightly", "cmd_list": ["c"],
                      "current_cmd": "c", "c": text});
    event("dispatcher", second, &args)
}

#[test]
fn incomplete_line_stands_at_the_foot_in_its_last_state() {
    let mut screen = on_terminal(false);
    let mut show = |frame: &Value| screen.show("", frame, UNIX_EPOCH);
    let begin = show(&printing(1, "a\n10%\r20%"));
    assert_eq!(begin, "12:00:01  > nightly c\n            nightly | a\n> nightly | 20%\n");
    assert_eq!(show(&printing(2, "\r30%")), "\r\x1b[1A\x1b[J> nightly | 30%\n");
    let args = json!({"message": "Mon: New snapshot of tank", "priority": "1 - Information",
                      "class": "snapshot"});
    assert_eq!(
        show(&event("life_preserver", 3, &args)),
        "\r\x1b[1A\x1b[J12:00:03  1 snapshot Mon: New snapshot of tank\n> nightly | 30%\n"
    );
    assert_eq!(show(&printing(4, "\rdone\n")), "\r\x1b[1A\x1b[J            nightly  | done\n");
}

#[test]
fn incomplete_line_in_a_pipe_is_shown_when_it_cannot_be_completed() {
    let mut screen = screen(false, false);
    let shown = show(&mut screen, &[printing(1, "10%\r20%\r")]);
    assert_eq!(shown, "12:00:01  > nightly c\n");
    assert_eq!(screen.end(UNIX_EPOCH), "            nightly | 20%\n");
    assert_eq!(screen.end(UNIX_EPOCH), "");
}

#[test]
fn replication_is_one_line_at_the_foot_beneath_all_others() {
    let mut screen = on_terminal(false);
    let of = |class: &str, message: &str| {
        let args = json!({"message": message, "priority": "1 - Information", "class": class});
        event("life_preserver", 7, &args)
    };
    let mut show = |class: &str, message: &str| screen.show("", &of(class, message), UNIX_EPOCH);
    let half = "> tank     50%  [############............]  2M/4M\n";
    assert_eq!(
        show("replication", "Replicating tank: 1M/4M (25%)"),
        "> tank     25%  [######..................]  1M/4M\n"
    );
    assert_eq!(
        show("replication", "Replicating tank: 2M/4M (50%)"),
        format!("\r\x1b[1A\x1b[J{half}")
    );
    assert_eq!(
        show("snapshot", "Mon: New snapshot of tank"),
        format!("\r\x1b[1A\x1b[J12:00:07  1 snapshot Mon: New snapshot of tank\n{half}")
    );
    assert_eq!(
        show("replication", "Mon: Finished replication for tank"),
        "\r\x1b[1A\x1b[J12:00:07  1 replication Mon: Finished replication for tank\n"
    );
}

#[test]
fn command_is_shown_once_also_where_its_events_were_joined() {
    let running = |current: &str, more: Value| {
        let mut args = json!({"state": "running", "process_id": "nightly", "current_cmd": current,
                              "cmd_list": ["a", "b", "c"]});
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event("dispatcher", 1, &args)
    };
    let finished = event(
        "dispatcher",
        2,
        &json!({"state": "finished", "process_id": "nightly", "cmd_list": ["a", "b", "c"],
                "return_codes/a": "0", "return_codes/b": "5", "result": "failed", "exit_code": 5,
                "failed_command": 1, "duration": 3.0}),
    );
    let frames = [running("a", json!({})), running("a", json!({})), finished];
    assert_eq!(
        show(&mut screen(false, true), &frames),
        "\
12:00:01  ▶ nightly [1/3] a
12:00:02  ▶ nightly [2/3] b
12:00:02  ✖ nightly [2/3] b: exit 5 after 3 s
"
    );
    // A late reader is shown what runs now.
    let late = [running("c", json!({"return_codes/a": "0", "return_codes/b": "0"}))];
    assert_eq!(show(&mut screen(false, true), &late), "12:00:01  ▶ nightly [3/3] c\n");
}

#[test]
fn end_of_a_job_that_was_not_followed_names_its_commands() {
    let end = |more: Value, present: bool| {
        let mut args = json!({"state": "finished", "process_id": "nightly", "cmd_list": ["a", "b"],
                              "a": "text\n", "time_finished": "2026-11-24T16:00:00Z"});
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut frame = event("dispatcher", 1, &args);
        frame["present"] = present.into();
        show(&mut screen(false, true), &[frame])
    };
    let cancelled = json!({"result": "cancelled", "killed_by": "eva"});
    assert_eq!(end(cancelled, true), "11:00:00  ✖ nightly cancelled by eva: a && b\n");
    let ok = json!({"result": "ok", "exit_code": 0, "return_codes/a": "0", "return_codes/b": "0"});
    assert_eq!(end(ok.clone(), true), "11:00:00  ✔ nightly 2 commands ok: a && b\n");
    assert!(end(ok, false).contains("nightly │ text"));
}

#[test]
fn output_can_be_left_out() {
    let mut screen = screen(false, true).without_output();
    let shown = show(&mut screen, &[printing(1, "text\nhalf")]);
    assert_eq!(shown + &screen.end(UNIX_EPOCH), "12:00:01  ▶ nightly c\n");
}

#[test]
fn lines_are_cut_to_the_width_in_columns() {
    let mut screen = on_terminal(true);
    let shown = show(&mut screen, &[printing(1, &format!("{}\n\tx\n", "東京".repeat(40)))]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[1], format!("            nightly │ {}…", "東京".repeat(9)));
    assert_eq!(lines[2], "            nightly │         x");
}

#[test]
fn hosts_stand_before_the_lines_and_jobs_of_one_id_are_two() {
    let mut screen = screen(false, true).with_hosts(4);
    let mut show = |host: &str, frame: &Value| screen.show(host, frame, UNIX_EPOCH);
    assert_eq!(show("nas", &printing(1, "half")), "nas   12:00:01  ▶ nightly c\n");
    assert_eq!(
        show("web", &printing(1, "whole\n")),
        "web   12:00:01  ▶ nightly c\nweb               nightly │ whole\n"
    );
    assert_eq!(show("nas", &printing(2, " more\n")), "nas               nightly │ half more\n");
    let now = UNIX_EPOCH + Duration::from_secs(20_781 * 86_400);
    let remark = screen.remark("nas", "has gone", now);
    assert!(remark.starts_with("nas   ") && remark.ends_with("  · has gone\n"), "{remark}");
}
