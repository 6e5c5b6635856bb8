//! Job submissions, parsed and validated before anything is done.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::class;
use super::command::Command;
use crate::sys::spawn::RunAs;
use crate::wire::{ErrorCode, Refusal, decimal, encoded_len};

/// A submitted job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// 1 to 128 bytes without control characters.
    pub id: String,
    /// At least one.
    pub commands: Vec<Command>,
    /// Jobs of one queue run one at a time.
    pub queue: Option<String>,
    /// Time limit of the whole chain.
    pub timeout: Option<Duration>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Variables in addition to the fixed ones.
    pub env: BTreeMap<String, String>,
    /// User of the job; the daemon's own by default.
    pub user: Option<RunAs>,
    /// Idempotency key: submissions of one user with the same nonce are one job.
    pub nonce: Option<String>,
    /// Name of the user who submitted it.
    pub submitted_by: Option<String>,
    /// Order among the jobs that wait, the highest first: -100 to 100.
    pub priority: i8,
    /// Ids of jobs that have to finish before it starts, at most 16.
    pub after: Vec<String>,
    /// However they end; else it is cancelled where one of them does not succeed.
    pub after_any: bool,
}

/// Limits of a submission.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Commands of one job.
    pub max_commands: usize,
    /// Maximum size of the commands of one job together, in bytes of JSON.
    pub max_command_bytes: usize,
}

/// Maximum number of jobs of one `run`: each is parsed, recorded and published in one turn of the
/// loop.
const BATCH: usize = 256;
/// Maximum length of an id and of a queue name, in bytes.
pub(super) const NAME: usize = 128;
/// Maximum length of a directory, in bytes (`PATH_MAX` of both systems is at least this).
const DIRECTORY: usize = 1024;
/// Maximum size of all variables together, in bytes.
const ENVIRONMENT: usize = 32 * 1024;
/// Jobs that one may wait for.
const AFTER: usize = 16;
/// Bound of a priority, of either sign.
const PRIORITY: i64 = 100;
/// Ten years: longer times overflow some clocks.
const LONGEST: u64 = 10 * 365 * 86_400;

/// Parses `run`: every key but `action` is an id, its value a command or a list of commands.
pub fn read_run(args: &Map<String, Value>, bounds: Bounds) -> Result<Vec<Submission>, Refusal> {
    // `action` is one of the keys.
    if args.len() > BATCH + 1 {
        let why = format!("{} jobs in one request; {BATCH} are allowed", args.len() - 1);
        return Err(Refusal::new(ErrorCode::TooLarge, why));
    }
    let jobs = args.iter().filter(|(key, _)| *key != "action");
    let batch: Vec<Submission> = jobs
        .map(|(id, value)| {
            let lines = match value {
                Value::String(_) => std::slice::from_ref(value),
                Value::Array(lines) if lines.iter().all(Value::is_string) => lines.as_slice(),
                Value::Array(_)
                | Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Object(_) => {
                    let why = format!("job {id:?}: a command is a string, or a list of strings");
                    return Err(Refusal::bad_request(why));
                }
            };
            Submission::new(Some(id.clone()), lines, bounds, |_| String::new())
        })
        .collect::<Result<_, _>>()?;
    if batch.is_empty() {
        return Err(Refusal::bad_request(
            "run needs a job: {\"action\": \"run\", \"<id>\": \"<command>\"}",
        ));
    }
    Ok(batch)
}

/// Parses `submit`; `new_id` generates an id for a job of that program where the client gives none.
pub fn read_submit(
    args: &Map<String, Value>,
    new_id: impl FnOnce(&str) -> String,
    bounds: Bounds,
) -> Result<Submission, Refusal> {
    const KNOWN: [&str; 13] = [
        "action",
        "id",
        "commands",
        "queue",
        "timeout",
        "cwd",
        "env",
        "user",
        "attach",
        "nonce",
        "priority",
        "after",
        "after_any",
    ];
    if let Some(unknown) = args.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let why = format!("submit does not know {unknown:?}; it knows {}", KNOWN[1..].join(", "));
        return Err(Refusal::bad_request(why));
    }
    let id = text(args, "id")?.map(str::to_owned);
    let Some(Value::Array(commands)) = args.get("commands") else {
        return Err(Refusal::bad_request("commands must be a list"));
    };
    let mut submission = Submission::new(id, commands, bounds, new_id)?;
    submission.nonce = read_nonce(args)?;
    if let Some(queue) = text(args, "queue")?.filter(|queue| *queue != "no_queue") {
        check_name("queue", queue)?;
        submission.queue = Some(queue.to_owned());
    } else if args.contains_key("queue") {
        submission.queue = None;
    }
    submission.timeout = read_timeout(args)?;
    if let Some(cwd) = text(args, "cwd")? {
        if !cwd.starts_with('/') || cwd.len() > DIRECTORY || cwd.contains('\0') {
            return Err(Refusal::bad_request("cwd must be an absolute path"));
        }
        submission.cwd = Some(cwd.to_owned());
    }
    submission.env = read_env(args)?;
    submission.user = read_user(args)?;
    submission.priority = read_priority(args)?;
    submission.after = read_after(args)?;
    submission.after_any = match args.get("after_any") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(any)) => *any,
        Some(_) => return Err(Refusal::bad_request("after_any must be true or false")),
    };
    Ok(submission)
}

/// Reads `nonce`, by which the submitter recognizes the job.
pub fn read_nonce(args: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    let nonce = text(args, "nonce")?;
    nonce.map(|nonce| check_name("nonce", nonce).map(|()| nonce.to_owned())).transpose()
}

fn read_priority(args: &Map<String, Value>) -> Result<i8, Refusal> {
    let Some(value) = args.get("priority").filter(|value| !value.is_null()) else { return Ok(0) };
    let number = value.as_i64().filter(|number| (-PRIORITY..=PRIORITY).contains(number));
    number.and_then(|number| number.try_into().ok()).ok_or_else(|| {
        Refusal::bad_request(format!("priority must be a number from -{PRIORITY} to {PRIORITY}"))
    })
}

/// Reads `after`: an id or a list of ids.
fn read_after(args: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let ids = match args.get("after") {
        None | Some(Value::Null) => &[][..],
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => &[Value::Null],
    };
    let ids: Option<Vec<String>> = ids.iter().map(|id| id.as_str().map(str::to_owned)).collect();
    let ids = ids.filter(|ids| ids.len() <= AFTER).ok_or_else(|| {
        Refusal::bad_request(format!("after must be an id or a list of at most {AFTER} ids"))
    })?;
    ids.iter().try_for_each(|id| check_name("after", id))?;
    Ok(ids)
}

impl Submission {
    fn new(
        id: Option<String>,
        commands: &[Value],
        bounds: Bounds,
        new_id: impl FnOnce(&str) -> String,
    ) -> Result<Submission, Refusal> {
        if let Some(id) = &id {
            check_name("id", id)?;
        }
        let given = id.clone().unwrap_or_else(|| "without id".to_owned());
        let too_large = |why: String| Err(Refusal::new(ErrorCode::TooLarge, why));
        // Before they are parsed.
        let (number, bytes) = commands
            .iter()
            .map(size)
            .fold((0, 0), |(number, bytes), size| (number + 1, bytes + size));
        if number > 2 * bounds.max_commands || bytes > bounds.max_command_bytes {
            return too_large(format!(
                "job {given:?}: {number} commands of {bytes} bytes; {} of {} bytes together are allowed",
                bounds.max_commands, bounds.max_command_bytes
            ));
        }
        let mut chain = Vec::new();
        for command in commands {
            let command = match command {
                Value::String(line) => Command::from_line(line)?,
                Value::Array(words) => {
                    let words: Option<Vec<String>> =
                        words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
                    let words = words.ok_or_else(|| {
                        Refusal::bad_request(format!(
                            "job {given:?}: the words of a command are strings"
                        ))
                    })?;
                    Command::from_words(words)?
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                    let why =
                        format!("job {given:?}: a command is a string, or a list of its words");
                    return Err(Refusal::bad_request(why));
                }
            };
            chain.extend(command);
        }
        if chain.is_empty() {
            return Err(Refusal::bad_request(format!("job {given:?} has no command")));
        }
        if chain.len() > bounds.max_commands {
            let (n, most) = (chain.len(), bounds.max_commands);
            return too_large(format!("job {given:?} has {n} commands; {most} are allowed"));
        }
        let bytes: usize = chain.iter().map(|command| encoded_len(&command.shown)).sum();
        if bytes > bounds.max_command_bytes {
            let most = bounds.max_command_bytes;
            return too_large(format!(
                "job {given:?}: its commands take {bytes} bytes; {most} are allowed"
            ));
        }
        let program = chain.first().and_then(|command| command.words.first());
        let id = id.unwrap_or_else(|| new_id(program.map_or("", String::as_str)));
        let queue = class::default_queue(&id).map(str::to_owned);
        let env = BTreeMap::new();
        Ok(Submission {
            id,
            commands: chain,
            queue,
            timeout: None,
            cwd: None,
            env,
            user: None,
            nonce: None,
            submitted_by: None,
            priority: 0,
            after: Vec::new(),
            after_any: false,
        })
    }

    /// Bytes that another run takes beside the commands.
    pub(super) fn environment_bytes(&self) -> usize {
        let env = self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        let user = match &self.user {
            Some(RunAs::Name(name)) => name.len(),
            Some(RunAs::Number(_)) => size_of::<u32>(),
            None => 0,
        };
        env + user + self.cwd.as_ref().map_or(0, String::len)
    }
}

/// Minimum number of bytes of a command.
fn size(command: &Value) -> usize {
    match command {
        Value::String(line) => line.len(),
        // Including the space between two words.
        Value::Array(words) => words.iter().map(|word| 1 + word.as_str().map_or(0, str::len)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => 0,
    }
}

fn text<'a>(args: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Refusal> {
    match args.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(Refusal::bad_request(format!("{key} must be a string")))
        }
    }
}

/// Rejects text that cannot be a job's id or a queue's name; `what` names which of them it is.
pub fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > NAME || name.chars().any(char::is_control) {
        let why = format!("{what} {name:?} must have 1 to {NAME} bytes and no control characters");
        return Err(Refusal::bad_request(why));
    }
    Ok(())
}

fn read_timeout(args: &Map<String, Value>) -> Result<Option<Duration>, Refusal> {
    let Some(value) = args.get("timeout").filter(|value| !value.is_null()) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds > 0.0 && *seconds <= LONGEST as f64);
    match seconds {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => Err(Refusal::bad_request("timeout must be a number of seconds above 0")),
    }
}

/// Parses `user`: a name, or a number that is a JSON number or a string of decimal digits without
/// leading zeros. Digits are never a name, and a sign or a blank is invalid in both.
fn read_user(args: &Map<String, Value>) -> Result<Option<RunAs>, Refusal> {
    let number = match args.get("user") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_u64().and_then(|number| number.try_into().ok()),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            decimal(text).filter(|number: &u32| number.to_string() == *text)
        }
        Some(Value::String(name)) if is_user_name(name) => {
            return Ok(Some(RunAs::Name(name.clone())));
        }
        Some(Value::String(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    // All bits set means "no change" to setuid(2) and its relatives.
    let number = number.filter(|number| *number != u32::MAX);
    let why = "user must be the name of a user, or its number in plain decimal digits";
    number.map(|number| Some(RunAs::Number(number))).ok_or_else(|| Refusal::bad_request(why))
}

/// Whether a file of accounts can contain the name: passwd(5) separates fields by colons, and gives
/// a leading `+` or `-` another meaning.
fn is_user_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !":/,".contains(c);
    check_name("user", name).is_ok() && !name.starts_with(['+', '-']) && name.chars().all(is_plain)
}

fn read_env(args: &Map<String, Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = |why: &str| Err(Refusal::bad_request(why.to_owned()));
    let pairs = match args.get("env") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(pairs)) => pairs,
        Some(_) => return refuse("env must be an object of strings"),
    };
    let mut env = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in pairs {
        let Some(value) = value.as_str() else { return refuse("env must be an object of strings") };
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return refuse(
                "env: a name must not be empty or hold '=', and nothing may hold a NUL byte",
            );
        }
        bytes += name.len() + value.len() + 2;
        env.insert(name.clone(), value.to_owned());
    }
    if bytes > ENVIRONMENT {
        let why = format!("env takes {bytes} bytes; {ENVIRONMENT} are allowed");
        return Err(Refusal::new(ErrorCode::TooLarge, why));
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const BOUNDS: Bounds = Bounds { max_commands: 4, max_command_bytes: 100 };

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn run(value: Value) -> Result<Vec<Submission>, Refusal> {
        read_run(&object(value), BOUNDS)
    }

    fn submit(value: Value) -> Result<Submission, Refusal> {
        read_submit(&object(value), |_| "random".into(), BOUNDS)
    }

    #[test]
    fn run_takes_jobs_in_the_order_given() {
        let batch =
            run(json!({"z": "true", "action": "run", "a": ["echo 1", "", "echo 2"]})).unwrap();
        let ids: Vec<&str> = batch.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(ids, ["z", "a"]);
        assert_eq!(batch[1].commands.len(), 2);
    }

    #[test]
    fn a_job_without_commands_is_refused() {
        for value in [json!({"a": ""}), json!({"a": []}), json!({"a": ["", " "]}), json!({})] {
            assert_eq!(run(value).unwrap_err().code, ErrorCode::BadRequest);
        }
        assert_eq!(submit(json!({"commands": []})).unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(run(json!({"a": 5})).unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(run(json!({"a": [5]})).unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn submission_limits_are_enforced() {
        let many = json!({"a": ["1", "2", "3", "4", "5"]});
        assert_eq!(run(many).unwrap_err().code, ErrorCode::TooLarge);
        assert_eq!(run(json!({"a": "x".repeat(101)})).unwrap_err().code, ErrorCode::TooLarge);
        assert!(run(json!({"x".repeat(128): "true"})).is_ok());
        assert!(run(json!({"x".repeat(129): "true"})).is_err());
        assert!(run(json!({"a\nb": "true"})).is_err());
        assert!(run(json!({"": "true"})).is_err());
    }

    #[test]
    fn submit_accepts_documented_forms_only() {
        let job = submit(json!({"commands": ["a b", ["c", "d e"]], "queue": "q", "timeout": 1.5,
                                "cwd": "/tmp", "env": {"A": "1"}, "user": 1000}))
        .unwrap();
        assert_eq!(job.id, "random");
        assert_eq!(job.commands[1].words, ["c", "d e"]);
        assert_eq!(job.queue.as_deref(), Some("q"));
        assert_eq!(job.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(job.env["A"], "1");
        assert_eq!(job.user, Some(RunAs::Number(1000)));
        for bad in [
            json!({"commands": ["a"], "tiemout": 1}),
            json!({"commands": ["a"], "timeout": 0}),
            json!({"commands": ["a"], "timeout": "1"}),
            json!({"commands": ["a"], "timeout": 1e300}),
            json!({"commands": ["a"], "cwd": "relative"}),
            json!({"commands": ["a"], "env": {"A=B": "1"}}),
            json!({"commands": ["a"], "env": {"A": 1}}),
            json!({"commands": ["a"], "user": ""}),
            json!({"commands": ["a"], "user": 4294967295u32}),
            json!({"commands": ["a"], "user": true}),
            json!({"commands": ["a"], "user": -1}),
            json!({"commands": ["a"], "user": -0.0}),
            json!({"commands": ["a"], "user": 0.0}),
            json!({"commands": ["a"], "user": 4294967296u64}),
            json!({"commands": "a"}),
            json!({"commands": ["a"], "queue": ""}),
        ] {
            assert_eq!(submit(bad.clone()).unwrap_err().code, ErrorCode::BadRequest, "{bad}");
        }
    }

    #[test]
    fn user_is_a_name_or_plain_decimal_digits() {
        let user =
            |user: &str| submit(json!({"commands": ["a"], "user": user})).map(|job| job.user);
        for (text, number) in [("0", 0), ("1000", 1000), ("4294967294", u32::MAX - 1)] {
            assert_eq!(user(text).unwrap(), Some(RunAs::Number(number)));
        }
        for name in
            ["root", "4dm", "www-data", "a.b_c$", "DOMAIN\\ann", "ann@example.org", "j\u{f6}rg"]
        {
            assert_eq!(user(name).unwrap(), Some(RunAs::Name(name.into())));
        }
        for bad in [
            "",
            "+0",
            "-0",
            "+root",
            "-1",
            " 0",
            "0 ",
            "\t0",
            "0\n",
            "00",
            "007",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "\u{a0}0",
            "a b",
            "a:b",
            "../a",
            "a\0",
        ] {
            assert_eq!(user(bad).unwrap_err().code, ErrorCode::BadRequest, "{bad:?}");
        }
    }

    #[test]
    fn the_old_queues_are_the_default_of_their_ids() {
        assert_eq!(
            run(json!({"sysadm_pkg_x": "a"})).unwrap()[0].queue.as_deref(),
            Some("pkg_queue")
        );
        let free = submit(json!({"id": "sysadm_pkg_x", "commands": ["a"], "queue": "no_queue"}));
        assert_eq!(free.unwrap().queue, None);
    }
}
