//! `restart`: the commands of a finished job once more, as a new job.

use serde_json::json;

use super::Command;
use super::exit::Exit;
use super::run::submit_and_follow;
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};

pub(super) const COMMAND: Command = Command {
    name: "restart",
    summary: "run a finished job again",
    help: concat!(
        "\
Runs the commands of a finished job again, as a new job: NAME-2 for NAME, with
its environment, directory, user, queue, priority and timeout. Shows the output
and exits with the code as run does.

Usage: sysadm-events restart [TARGET] [--detach] ID

Options:
  --detach    print the new job's id and leave it to itself
  -h, --help  this text
",
        target_help!(),
        "
The daemon retains what that takes as long as the job, up to
retain_environment. A job that is active is refused with exit code 75.

Example:
  sysadm-events restart nightly
"
    ),
    main,
};

fn main(words: Words) -> Result<u8, Exit> {
    let (id, detach, target) = parse(words)?;
    let restart = json!({ "action": "restart", "job_id": id });
    submit_and_follow(restart, detach, &target)
}

fn parse(mut words: Words) -> Result<(String, bool, TargetOptions), Exit> {
    let (mut id, mut detach, mut target) = (None, false, TargetOptions::default());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--detach" => detach = true,
            Word::Value(value) if id.is_none() => id = Some(text(value)?),
            other => return Err(unexpected(&other)),
        }
    }
    Ok((id.ok_or_else(|| Exit::usage("which job is to be restarted?"))?, detach, target))
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn restart_takes_one_id() {
        let (id, detach, _) = parse(words(&["--detach", "j"])).unwrap();
        assert!(detach && id == "j");
        for wrong in [&[][..], &["a", "b"], &["--id", "x", "a"]] {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }
}
