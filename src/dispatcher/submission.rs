//! Job submissions, validated before anything is done.

use std::collections::BTreeMap;
use std::time::Duration;

use super::command::Command;
use super::{Dispatcher, class};
use crate::sys::spawn::RunAs;
use crate::wire::{CommandText, ErrorCode, JobRequest, JobUser, Refusal, encoded_len};

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

impl Submission {
    /// Checks the limits of a job, splits its commands into words, and gives it an id where the
    /// client gave none.
    pub fn new(
        job: JobRequest,
        dispatcher: &Dispatcher,
        bounds: Bounds,
    ) -> Result<Submission, Refusal> {
        let commands = read_commands(&job, bounds)?;
        let program = commands.first().and_then(|command| command.words.first());
        let id = job
            .id
            .map_or_else(|| dispatcher.new_id(program.map_or("", String::as_str)), String::from);
        let queue = job.queue.unwrap_or_else(|| class::default_queue(&id).map(str::to_owned));
        Ok(Submission {
            id,
            commands,
            queue,
            timeout: job.timeout,
            cwd: job.cwd,
            env: job.env,
            user: job.user.map(|user| match user {
                JobUser::Name(name) => RunAs::Name(name),
                JobUser::Number(number) => RunAs::Number(number),
            }),
            nonce: job.nonce,
            submitted_by: None,
            priority: job.priority,
            after: job.after.into_iter().map(String::from).collect(),
            after_any: job.after_any,
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

/// Splits the commands of a job into words.
fn read_commands(job: &JobRequest, bounds: Bounds) -> Result<Vec<Command>, Refusal> {
    let given = job.id.as_deref().unwrap_or("without id");
    let too_large = |why: String| Err(Refusal::new(ErrorCode::TooLarge, why));
    // Before they are parsed.
    let (number, bytes) = (job.commands.len(), job.commands.iter().map(size).sum::<usize>());
    if number > 2 * bounds.max_commands || bytes > bounds.max_command_bytes {
        return too_large(format!(
            "job {given:?}: {number} commands of {bytes} bytes; {} of {} bytes together are allowed",
            bounds.max_commands, bounds.max_command_bytes
        ));
    }
    let mut chain = Vec::new();
    for command in &job.commands {
        chain.extend(match command {
            CommandText::Line(line) => Command::from_line(line)?,
            CommandText::Words(words) => Command::from_words(words.clone())?,
        });
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
    Ok(chain)
}

/// Minimum number of bytes of a command.
fn size(command: &CommandText) -> usize {
    match command {
        CommandText::Line(line) => line.len(),
        // Including the space between two words.
        CommandText::Words(words) => words.iter().map(|word| 1 + word.len()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Driver;
    use super::*;
    use crate::wire::JobId;

    const BOUNDS: Bounds = Bounds { max_commands: 4, max_command_bytes: 100 };

    fn submission(id: Option<&str>, lines: &[&str]) -> Result<Submission, Refusal> {
        let commands = lines.iter().map(|line| CommandText::Line((*line).to_owned())).collect();
        let id = id.map(|id| JobId::parse("id", id).unwrap());
        let job = JobRequest { id, commands, ..JobRequest::default() };
        Submission::new(job, &Driver::new().dispatcher, BOUNDS)
    }

    #[test]
    fn commands_are_split_and_empty_ones_left_out() {
        let job = submission(Some("a"), &["echo 1", "", "echo 2"]).unwrap();
        assert_eq!(job.commands[1].words, ["echo", "2"]);
        assert_eq!(submission(None, &["/bin/echo 1"]).unwrap().id, "echo-1");
    }

    #[test]
    fn a_job_without_commands_is_refused() {
        for lines in [&[][..], &[""], &["", " "]] {
            let refusal = submission(Some("a"), lines).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadRequest);
        }
    }

    #[test]
    fn submission_limits_are_enforced() {
        let code = |lines: &[&str]| submission(Some("a"), lines).unwrap_err().code;
        assert_eq!(code(&["1", "2", "3", "4", "5"]), ErrorCode::TooLarge);
        assert_eq!(code(&[""; 9]), ErrorCode::TooLarge);
        assert_eq!(code(&["x".repeat(101).as_str()]), ErrorCode::TooLarge);
        assert_eq!(code(&["\u{1}".repeat(20).as_str()]), ErrorCode::TooLarge);
    }

    #[test]
    fn the_old_queues_are_the_default_of_their_ids() {
        let job = submission(Some("sysadm_pkg_x"), &["a"]).unwrap();
        assert_eq!(job.queue.as_deref(), Some("pkg_queue"));
        let commands = vec![CommandText::Line("a".into())];
        let id = Some(JobId::parse("id", "sysadm_pkg_x").unwrap());
        let free = JobRequest { id, commands, queue: Some(None), ..JobRequest::default() };
        assert_eq!(Submission::new(free, &Driver::new().dispatcher, BOUNDS).unwrap().queue, None);
    }
}
