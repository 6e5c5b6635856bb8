//! Arguments of `rpc/dispatcher`: jobs and queues.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::super::decimal::decimal;
use super::super::id::{JobId, check_name};
use super::super::quoted::Quoted;
use super::super::reply::{ErrorCode, Refusal};
use super::fields::one_or_more;
use super::{Command, Fields};

/// A request about jobs or queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobCommand {
    /// Submit jobs in the form of the original server; not empty.
    Run(Vec<JobRequest>),
    /// Submit a job.
    Submit(Box<JobRequest>),
    /// Submit the commands of a finished job again.
    Restart {
        /// The finished job.
        job: JobId,
        /// As in [`JobRequest`].
        nonce: Option<String>,
        /// As in [`JobRequest`].
        attach: Option<Attach>,
    },
    /// Kill these jobs.
    Kill(Vec<JobId>),
    /// Pause or resume a queue.
    SetPaused {
        /// The queue.
        queue: String,
        /// Whether no job of it starts.
        paused: bool,
    },
    /// List the jobs: one page.
    List {
        /// The name of the page; `None` for the first.
        page: Option<String>,
    },
    /// List the queues: one page.
    ListQueues {
        /// The name of the page; `None` for the first.
        page: Option<String>,
    },
    /// Read a part of a job's output.
    Log {
        /// The job.
        job: JobId,
        /// Offset of the first byte.
        offset: u64,
        /// Maximum number of bytes.
        length: Option<u64>,
    },
    /// Receive a job's output.
    Attach {
        /// The job.
        job: JobId,
        /// Options.
        attach: Attach,
    },
    /// Output of an attachment was processed.
    Acknowledge {
        /// Number of the attachment.
        stream: u64,
        /// The client has processed all bytes before this offset.
        offset: u64,
    },
    /// Receive no more output.
    Detach {
        /// Number of the attachment.
        stream: u64,
    },
}

impl JobCommand {
    /// Whether the reply may wait for the store.
    pub(super) fn may_wait(&self) -> bool {
        match self {
            JobCommand::Run(_)
            | JobCommand::Submit(_)
            | JobCommand::Restart { .. }
            | JobCommand::SetPaused { .. }
            | JobCommand::Log { .. } => true,
            JobCommand::Kill(_)
            | JobCommand::List { .. }
            | JobCommand::ListQueues { .. }
            | JobCommand::Attach { .. }
            | JobCommand::Acknowledge { .. }
            | JobCommand::Detach { .. } => false,
        }
    }
}

/// Options of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Offset of the first byte to send.
    pub offset: u64,
    /// Maximum number of bytes sent and not acknowledged.
    pub window: Option<u64>,
    /// The job's output is throttled to the client's acknowledgements.
    pub hold: bool,
    /// Later output is sent too.
    pub follow: bool,
    /// Output is sent; otherwise only the end.
    pub output: bool,
    /// Output may come in binary messages.
    pub binary: bool,
}

/// A command as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandText {
    /// A line to be split into words.
    Line(String),
    /// Its words.
    Words(Vec<String>),
}

/// User of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobUser {
    /// By name.
    Name(String),
    /// By number, other than the one that means "no change" to setuid(2).
    Number(u32),
}

/// A job to be submitted. Its parts are well-formed; the dispatcher has the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRequest {
    /// Generated if missing.
    pub id: Option<JobId>,
    /// Commands, to run one after another.
    pub commands: Vec<CommandText>,
    /// The queue: by default that of the id; `Some(None)` for no queue.
    pub queue: Option<Option<String>>,
    /// Time limit of the whole chain.
    pub timeout: Option<Duration>,
    /// Working directory: an absolute path.
    pub cwd: Option<String>,
    /// Variables, at most 32 KiB.
    pub env: BTreeMap<String, String>,
    /// User; the daemon's own by default.
    pub user: Option<JobUser>,
    /// Idempotency key: submissions of one user with the same nonce are one job.
    pub nonce: Option<String>,
    /// Order among the jobs that wait, the highest first: -100 to 100.
    pub priority: i8,
    /// Jobs that have to finish before, at most 16.
    pub after: Vec<JobId>,
    /// Those jobs may fail.
    pub after_any: bool,
    /// The client is attached to the job.
    pub attach: Option<Attach>,
}

/// Maximum number of jobs of one `run`: each is parsed, recorded and published in one turn of the
/// loop.
const BATCH: usize = 256;
/// Maximum length of a directory, in bytes (`PATH_MAX` of both systems is at least this).
const DIRECTORY: usize = 1024;
/// Maximum size of all variables together, in bytes.
const ENVIRONMENT: usize = 32 * 1024;
/// Maximum number of variables: each takes time of the loop.
const VARIABLES: usize = 1024;
/// Jobs that one may wait for.
const AFTER: usize = 16;
/// Bound of a priority, of either sign.
const PRIORITY: i64 = 100;
/// Ten years: longer times overflow some clocks.
const LONGEST: u64 = 10 * 365 * 86_400;

/// Every key but `action` is an id, its value a command or a list of commands.
pub(super) fn run(args: &mut Value) -> Result<Command, Refusal> {
    let jobs = Fields::of(args).iter().filter(|(key, _)| *key != "action");
    let count = jobs.clone().count();
    if count > BATCH {
        let why = format!("{count} jobs in one request; {BATCH} are allowed");
        return Err(Refusal::new(ErrorCode::TooLarge, why));
    }
    let read = |(id, value): (&str, &Value)| {
        let line = |value: &Value| value.as_str().map(|line| CommandText::Line(line.to_owned()));
        let lines: Option<Vec<CommandText>> = match value {
            Value::Array(lines) => lines.iter().map(line).collect(),
            value => line(value).map(|line| vec![line]),
        };
        let commands = lines.ok_or_else(|| {
            Refusal::bad_request(format!(
                "job {}: a command is a string, or a list of strings",
                Quoted(id)
            ))
        })?;
        Ok(JobRequest { id: Some(JobId::parse("id", id)?), commands, ..JobRequest::default() })
    };
    let batch: Vec<JobRequest> = jobs.map(read).collect::<Result<_, Refusal>>()?;
    if batch.is_empty() {
        return Err(Refusal::bad_request(
            "run needs a job: {\"action\": \"run\", \"<id>\": \"<command>\"}",
        ));
    }
    Ok(Command::Job(JobCommand::Run(batch)))
}

pub(super) fn submit(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only(
        "submit",
        &[
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
        ],
    )?;
    let id = fields.text("id")?.map(|id| JobId::parse("id", id)).transpose()?;
    let commands = read_commands(fields, id.as_deref().unwrap_or("without id"))?;
    Ok(Command::Job(JobCommand::Submit(Box::new(JobRequest {
        commands,
        queue: read_queue(fields)?,
        timeout: read_timeout(fields)?,
        cwd: read_directory(fields)?,
        env: read_env(fields)?,
        user: read_user(fields)?,
        nonce: read_nonce(fields)?,
        priority: read_priority(fields)?,
        after: read_after(fields)?,
        after_any: fields.flag("after_any")?.unwrap_or(false),
        attach: read_attach(fields)?,
        id,
    }))))
}

pub(super) fn restart(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only("restart", &["action", "job_id", "nonce", "attach"])?;
    let job = fields.job("restart")?;
    let (nonce, attach) = (read_nonce(fields)?, read_attach(fields)?);
    Ok(Command::Job(JobCommand::Restart { job, nonce, attach }))
}

pub(super) fn kill(args: &mut Value) -> Result<Command, Refusal> {
    let ids = one_or_more(args.get("job_id"), "job_id")?;
    Ok(Command::Job(JobCommand::Kill(ids.into_iter().map(JobId::from).collect())))
}

pub(super) fn set_paused(args: &Value, paused: bool) -> Result<Command, Refusal> {
    let Some(queue) = args.get("queue").and_then(Value::as_str) else {
        let action = if paused { "pause" } else { "resume" };
        return Err(Refusal::bad_request(format!("{action} needs a queue")));
    };
    check_name("queue", queue)?;
    Ok(Command::Job(JobCommand::SetPaused { queue: queue.to_owned(), paused }))
}

pub(super) fn list(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Job(JobCommand::List { page: Fields::of(args).page()? }))
}

pub(super) fn queues(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Job(JobCommand::ListQueues { page: Fields::of(args).page()? }))
}

pub(super) fn log(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    let job = fields.job("log")?;
    let (offset, length) = (fields.bytes("offset")?.unwrap_or(0), fields.bytes("length")?);
    Ok(Command::Job(JobCommand::Log { job, offset, length }))
}

pub(super) fn attach(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    let known = ["action", "job_id", "offset", "window", "hold", "follow", "output", "binary"];
    fields.only("attach", &known)?;
    let job = fields.job("attach")?;
    let attach = Attach {
        offset: fields.bytes("offset")?.unwrap_or(0),
        window: fields.bytes("window")?,
        hold: fields.flag("hold")?.unwrap_or(true),
        follow: fields.flag("follow")?.unwrap_or(true),
        output: fields.flag("output")?.unwrap_or(true),
        binary: fields.flag("binary")?.unwrap_or(false),
    };
    Ok(Command::Job(JobCommand::Attach { job, attach }))
}

pub(super) fn acknowledge(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    let (stream, offset) = (fields.number("stream")?, fields.number("offset")?);
    Ok(Command::Job(JobCommand::Acknowledge { stream, offset }))
}

pub(super) fn detach(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Job(JobCommand::Detach { stream: Fields::of(args).number("stream")? }))
}

/// The `attach` of a submission: `true`, or an object with `window` and `binary`.
fn read_attach(fields: Fields<'_>) -> Result<Option<Attach>, Refusal> {
    let (window, binary) = match fields.get("attach") {
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => (None, false),
        Some(options @ Value::Object(_))
            if Fields::of(options).only("attach", &["window", "binary"]).is_ok() =>
        {
            let options = Fields::of(options);
            (options.bytes("window")?, options.flag("binary")?.unwrap_or(false))
        }
        Some(_) => {
            let why = "attach must be true, or an object with \"window\" and \"binary\"";
            return Err(Refusal::bad_request(why));
        }
    };
    Ok(Some(Attach { offset: 0, window, hold: true, follow: true, output: true, binary }))
}

fn read_commands(fields: Fields<'_>, job: &str) -> Result<Vec<CommandText>, Refusal> {
    let Some(Value::Array(commands)) = fields.get("commands") else {
        return Err(Refusal::bad_request("commands must be a list"));
    };
    let refuse = |why| Refusal::bad_request(format!("job {}: {why}", Quoted(job)));
    let read = |command: &Value| match command {
        Value::String(line) => Ok(CommandText::Line(line.clone())),
        Value::Array(words) => {
            let words = words.iter().map(|word| word.as_str().map(str::to_owned));
            let words = words.collect::<Option<_>>();
            words
                .map(CommandText::Words)
                .ok_or_else(|| refuse("the words of a command are strings"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(refuse("a command is a string, or a list of its words"))
        }
    };
    commands.iter().map(read).collect()
}

fn read_queue(fields: Fields<'_>) -> Result<Option<Option<String>>, Refusal> {
    let Some(queue) = fields.text("queue")?.filter(|queue| *queue != "no_queue") else {
        return Ok(fields.has("queue").then_some(None));
    };
    check_name("queue", queue)?;
    Ok(Some(Some(queue.to_owned())))
}

fn read_directory(fields: Fields<'_>) -> Result<Option<String>, Refusal> {
    let path = fields.text("cwd")?;
    if path
        .is_some_and(|path| !path.starts_with('/') || path.len() > DIRECTORY || path.contains('\0'))
    {
        return Err(Refusal::bad_request("cwd must be an absolute path"));
    }
    Ok(path.map(str::to_owned))
}

fn read_nonce(fields: Fields<'_>) -> Result<Option<String>, Refusal> {
    let nonce = fields.text("nonce")?;
    nonce.map(|nonce| check_name("nonce", nonce).map(|()| nonce.to_owned())).transpose()
}

fn read_priority(fields: Fields<'_>) -> Result<i8, Refusal> {
    let Some(value) = fields.get("priority") else { return Ok(0) };
    let number = value.as_i64().filter(|number| (-PRIORITY..=PRIORITY).contains(number));
    number.and_then(|number| number.try_into().ok()).ok_or_else(|| {
        Refusal::bad_request(format!("priority must be a number from -{PRIORITY} to {PRIORITY}"))
    })
}

/// Reads `after`: an id or a list of ids.
fn read_after(fields: Fields<'_>) -> Result<Vec<JobId>, Refusal> {
    let ids = match fields.get("after") {
        None => &[][..],
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let ids: Option<Vec<&str>> = ids.iter().map(Value::as_str).collect();
    let ids = ids.filter(|ids| ids.len() <= AFTER).ok_or_else(|| {
        Refusal::bad_request(format!("after must be an id or a list of at most {AFTER} ids"))
    })?;
    ids.iter().map(|id| JobId::parse("after", id)).collect()
}

fn read_timeout(fields: Fields<'_>) -> Result<Option<Duration>, Refusal> {
    let Some(value) = fields.get("timeout") else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds > 0.0 && *seconds <= LONGEST as f64);
    match seconds {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => Err(Refusal::bad_request("timeout must be a number of seconds above 0")),
    }
}

/// Parses `user`: a name, or a number that is a JSON number or a string of decimal digits without
/// leading zeros. Digits are never a name, and a sign or a blank is invalid in both.
fn read_user(fields: Fields<'_>) -> Result<Option<JobUser>, Refusal> {
    let number = match fields.get("user") {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_u64().and_then(|number| number.try_into().ok()),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            decimal(text).filter(|number: &u32| number.to_string() == *text)
        }
        Some(Value::String(name)) if is_user_name(name) => {
            return Ok(Some(JobUser::Name(name.clone())));
        }
        Some(_) => None,
    };
    // All bits set means "no change" to setuid(2) and its relatives.
    let number = number.filter(|number| *number != u32::MAX);
    let why = "user must be the name of a user, or its number in plain decimal digits";
    number.map(|number| Some(JobUser::Number(number))).ok_or_else(|| Refusal::bad_request(why))
}

/// Whether a file of accounts can contain the name: passwd(5) separates fields by colons, and gives
/// a leading `+` or `-` another meaning.
fn is_user_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !":/,".contains(c);
    check_name("user", name).is_ok() && !name.starts_with(['+', '-']) && name.chars().all(is_plain)
}

fn read_env(fields: Fields<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = |why: &str| Err(Refusal::bad_request(why.to_owned()));
    let pairs = match fields.get("env") {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(pairs)) => pairs,
        Some(_) => return refuse("env must be an object of strings"),
    };
    let bytes = |value: &Value| value.as_str().map_or(0, str::len);
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + bytes(value) + 2).sum();
    if bytes > ENVIRONMENT || pairs.len() > VARIABLES {
        let why = format!(
            "env has {} variables of {bytes} bytes; {VARIABLES} of {ENVIRONMENT} bytes together \
             are allowed",
            pairs.len()
        );
        return Err(Refusal::new(ErrorCode::TooLarge, why));
    }
    let mut env = BTreeMap::new();
    for (name, value) in pairs {
        let Some(value) = value.as_str() else { return refuse("env must be an object of strings") };
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return refuse(
                "env: a name must not be empty or hold '=', and nothing may hold a NUL byte",
            );
        }
        env.insert(name.clone(), value.to_owned());
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(mut args: Value) -> Result<Vec<JobRequest>, Refusal> {
        match super::run(&mut args)? {
            Command::Job(JobCommand::Run(batch)) => Ok(batch),
            other => panic!("{other:?}"),
        }
    }

    fn submit(mut args: Value) -> Result<JobRequest, Refusal> {
        match super::submit(&mut args)? {
            Command::Job(JobCommand::Submit(job)) => Ok(*job),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn run_takes_jobs_in_the_order_given() {
        let batch =
            run(json!({"z": "true", "action": "run", "a": ["echo 1", "", "echo 2"]})).unwrap();
        let ids: Vec<&str> = batch.iter().filter_map(|job| job.id.as_deref()).collect();
        assert_eq!(ids, ["z", "a"]);
        assert_eq!(batch[1].commands.len(), 3);
    }

    #[test]
    fn run_of_invalid_jobs_is_refused() {
        assert!(run(json!({"x".repeat(128): "true"})).is_ok());
        for bad in [
            json!({}),
            json!({"action": "run"}),
            json!({"a": 5}),
            json!({"a": [5]}),
            json!({"x".repeat(129): "true"}),
            json!({"a\nb": "true"}),
            json!({"": "true"}),
        ] {
            assert_eq!(run(bad.clone()).unwrap_err().code, ErrorCode::BadRequest, "{bad}");
        }
        let many: serde_json::Map<String, Value> =
            (0..=BATCH).map(|number| (format!("j{number}"), "true".into())).collect();
        assert_eq!(run(many.into()).unwrap_err().code, ErrorCode::TooLarge);
    }

    #[test]
    fn submit_accepts_documented_forms_only() {
        let job = submit(json!({"commands": ["a b", ["c", "d e"]], "queue": "q", "timeout": 1.5,
                                "cwd": "/tmp", "env": {"A": "1"}, "user": 1000}))
        .unwrap();
        assert_eq!(job.id, None);
        let words = ["c", "d e"].map(str::to_owned).to_vec();
        assert_eq!(job.commands, [CommandText::Line("a b".into()), CommandText::Words(words)]);
        assert_eq!(job.queue, Some(Some("q".to_owned())));
        assert_eq!(job.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(job.env["A"], "1");
        assert_eq!(job.user, Some(JobUser::Number(1000)));
        assert_eq!(submit(json!({"commands": [], "queue": "no_queue"})).unwrap().queue, Some(None));
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
            json!({"commands": [5]}),
            json!({"commands": [["a", 5]]}),
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
            assert_eq!(user(text).unwrap(), Some(JobUser::Number(number)));
        }
        for name in
            ["root", "4dm", "www-data", "a.b_c$", "DOMAIN\\ann", "ann@example.org", "j\u{f6}rg"]
        {
            assert_eq!(user(name).unwrap(), Some(JobUser::Name(name.into())));
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
}
