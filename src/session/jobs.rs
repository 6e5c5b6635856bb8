//! Requests about jobs and queues.

use super::{Denied, Handled, RequestContext, Session};
use crate::auth::Role;
use crate::dispatcher::Submission;
use crate::wire::{Attach, ErrorCode, JobCommand, JobId, Killed, Refusal, Reply, Started};

impl Session {
    pub(super) fn handle_job_command(
        &self,
        command: JobCommand,
        context: &mut RequestContext<'_>,
    ) -> Result<Handled, Denied> {
        let user = self.identity.as_ref().map(|who| who.user.as_str());
        let dispatcher = &mut *context.dispatcher;
        let bounds = dispatcher.limits().bounds();
        let reply = match command {
            JobCommand::Run(batch) => {
                let batch = batch.into_iter().map(|job| Submission::new(job, dispatcher, bounds));
                return self.submit(batch.collect::<Result<_, _>>()?, None, context);
            }
            JobCommand::Submit(mut job) => {
                let attach = job.attach.take();
                let job = Submission::new(*job, dispatcher, bounds)?;
                return self.submit(vec![job], attach, context);
            }
            JobCommand::Restart { job, nonce, attach } => {
                let again = Submission { nonce, ..dispatcher.restart(&job)? };
                let mut handled = self.submit(vec![again], attach, context)?;
                if let Handled::Submitted { reply, .. } = &mut handled {
                    reply.restarted = Some(job);
                }
                return Ok(handled);
            }
            JobCommand::Kill(ids) => {
                let jobs = dispatcher.kill(&ids, user, context.now)?;
                Reply::Killed { killed: Killed { jobs } }
            }
            JobCommand::SetPaused { queue, paused } => {
                dispatcher.set_paused(&queue, paused, user)?;
                return Ok(Handled::Paused { queue, paused });
            }
            JobCommand::List { page } => Reply::Table(dispatcher.list(page.as_deref())?),
            JobCommand::ListQueues { page } => {
                Reply::Table(dispatcher.list_queues(page.as_deref()))
            }
            JobCommand::Log { job, offset, length } => {
                return Ok(Handled::Log(dispatcher.log_question(&job, offset, length)?));
            }
            JobCommand::Attach { job, attach } => {
                if attach.hold && self.identity.as_ref().is_none_or(|who| who.role < Role::Full) {
                    let why = "to hold a job back needs full access: attach with \"hold\": false";
                    return Err(Refusal::new(ErrorCode::Forbidden, why).into());
                }
                return Ok(Handled::Attach(dispatcher.find(&job)?, attach));
            }
            JobCommand::Acknowledge { stream, offset } => {
                return Ok(Handled::Acknowledge { stream, offset });
            }
            JobCommand::Detach { stream } => return Ok(Handled::Detach { stream }),
        };
        Ok(Handled::Reply(reply))
    }

    fn submit(
        &self,
        mut batch: Vec<Submission>,
        attach: Option<Attach>,
        context: &mut RequestContext<'_>,
    ) -> Result<Handled, Denied> {
        for job in &mut batch {
            job.submitted_by = self.identity.as_ref().map(|who| who.user.clone());
        }
        let submitted = |ids: Vec<String>, serials, last, is_repeated| {
            let started = ids.into_iter().map(JobId::from).collect();
            let reply = Started { started, restarted: None, attached: None };
            Ok(Handled::Submitted { reply, serials, last, attach, is_repeated })
        };
        if let [Submission { nonce: Some(nonce), submitted_by, .. }] = batch.as_slice()
            && let Some((serial, id)) =
                context.dispatcher.find_submitted(nonce, submitted_by.as_deref())
        {
            // The request is repeated because its reply was lost.
            let filed = context.dispatcher.is_filed(serial).then_some(serial);
            return submitted(vec![id.to_owned()], filed.into_iter().collect(), serial, true);
        }
        let ids: Vec<String> = batch.iter().map(|asked| asked.id.clone()).collect();
        let serials = context.dispatcher.submit(batch)?;
        let last = serials.last().copied().unwrap_or_default();
        submitted(ids, serials, last, false)
    }
}
