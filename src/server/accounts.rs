//! Who has which role, by groups that a child looks up: at the start, and again at each reload.

use log::{info, warn};
use mio::Interest;
use nix::unistd::geteuid;

use super::{Key, Server};
use crate::auth::Roles;
use crate::config::Config;
use crate::helper::{Accounts, Asked, Lookup, LookupError};
use crate::moment::Moment;
use crate::reactor::Registered;

/// A look-up that the loop waits for.
pub(super) struct Asking {
    lookup: Lookup,
    registered: Registered,
}

/// What is asked for with this configuration.
pub(super) fn asked(config: &Config) -> Asked {
    Asked {
        full: config.auth.full_access_groups.clone(),
        read: config.auth.read_only_groups.clone(),
    }
}

/// The roles that follow from what was found; what was not is said.
pub(super) fn roles(found: &Accounts) -> Roles {
    for group in &found.unknown {
        info!("there is no group {group:?} on this host");
    }
    for failure in &found.failed {
        warn!("cannot look up a group: {failure}; nobody has a role by it");
    }
    let own = geteuid();
    Roles {
        full: found.full.clone(),
        read: found.read.clone(),
        own_uid: (!own.is_root()).then(|| own.as_raw()),
    }
}

impl Server {
    /// Begins to look up the groups of the present configuration.
    pub(super) fn ask_for_accounts(&mut self, now: Moment) {
        self.forget_asking();
        let begun = Lookup::begin(&asked(&self.config)).and_then(|mut lookup| {
            let registered =
                self.reactor.register(lookup.source(), Interest::READABLE, Key::Accounts);
            Ok(Asking { registered: registered.map_err(LookupError::System)?, lookup })
        });
        match begun {
            Ok(asking) => {
                self.asking = Some(asking);
                let due = now.instant + Lookup::patience();
                self.reactor.set_deadline(Key::Accounts, Some(due));
            }
            Err(error) => warn!("cannot look up groups: {error}; roles stay as they are"),
        }
    }

    /// The look-up has something to say.
    pub(super) fn on_accounts(&mut self) {
        let Some(answer) = self.asking.as_mut().and_then(|asking| asking.lookup.read()) else {
            return;
        };
        self.forget_asking();
        match answer {
            Ok(found) => self.roles = roles(&found),
            Err(error) => warn!("cannot look up groups: {error}; roles stay as they are"),
        }
    }

    /// It has not said it in time.
    pub(super) fn on_accounts_overdue(&mut self) {
        if self.asking.is_some() {
            self.forget_asking();
            warn!("cannot look up groups: {}; roles stay as they are", LookupError::Overdue);
        }
    }

    fn forget_asking(&mut self) {
        self.reactor.set_deadline(Key::Accounts, None);
        if let Some(Asking { mut lookup, registered }) = self.asking.take() {
            self.reactor.deregister(lookup.source(), registered);
            lookup.give_up();
        }
    }
}
