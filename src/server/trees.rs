//! The child that finds and signals processes of jobs, between [`Trees`] and the reactor.

use std::time::Instant;

use log::error;
use nix::unistd::Pid;

use super::PollToken;
use super::child::Child;
use crate::helper::channel::Channel;
use crate::helper::trees::{self, Action, Order, Serial, Trees};
use crate::reactor::Reactor;
use crate::sys::children::Exit;

/// The child and what belongs to it.
#[derive(Default)]
pub(super) struct TreesHelper {
    pub(super) trees: Trees,
    child: Option<Child>,
    channel: Channel,
}

impl TreesHelper {
    /// Sends an order, to a new child where there is none. Returns what could not be asked, if so.
    pub(super) fn send(
        &mut self,
        order: &Order,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> Option<Vec<(Serial, Action)>> {
        if self.child.is_none() {
            let begun =
                trees::begin().and_then(|begun| Child::watch(begun, PollToken::Trees, reactor));
            match begun {
                Ok(child) => {
                    self.child = Some(child);
                    self.channel.started();
                }
                Err(why) => {
                    error!("cannot start the child that signals processes: {why}");
                    return Some(self.lose(reactor, now));
                }
            }
        }
        let body = serde_json::to_vec(order).unwrap_or_default();
        self.channel.send(0, 0, &[&body]);
        self.flush();
        None
    }

    /// Writes what the child takes now.
    pub(super) fn flush(&mut self) {
        if let Some(child) = &mut self.child {
            child.flush(&mut self.channel);
        }
    }

    /// Reads from the child; the jobs without processes, where a reply is complete.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        reactor: &mut Reactor<PollToken>,
    ) -> Option<Vec<Serial>> {
        let child = self.child.as_mut()?;
        let (channel, mut reply) = (&mut self.channel, None);
        child.read(scratch, PollToken::Trees, reactor, |bytes| {
            reply = channel.received(bytes).pop().or(reply.take());
        });
        reply.map(|frame| serde_json::from_slice(&frame.body).unwrap_or_default())
    }

    /// A child of the daemon has ended; true where it was this one.
    pub(super) fn on_child(
        &mut self,
        pid: Pid,
        exit: Exit,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> bool {
        let ended = Child::take_ended(&mut self.child, pid, exit, reactor);
        let Some(how) = ended else { return false };
        error!("the child that signals processes ended ({how})");
        self.lose(reactor, now);
        true
    }

    /// Gives up a child that does not reply; what it was asked.
    pub(super) fn give_up(
        &mut self,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> Vec<(Serial, Action)> {
        error!("processes of jobs cannot be looked at: the child that does it hangs");
        self.lose(reactor, now)
    }

    fn lose(&mut self, reactor: &mut Reactor<PollToken>, now: Instant) -> Vec<(Serial, Action)> {
        self.child.iter().for_each(Child::kill);
        self.end(reactor);
        self.trees.lost(now).into_iter().collect()
    }

    /// Lets the child go, which ends by itself.
    pub(super) fn end(&mut self, reactor: &mut Reactor<PollToken>) {
        if let Some(child) = self.child.take() {
            child.let_go(reactor);
        }
        self.channel = Channel::default();
    }
}
