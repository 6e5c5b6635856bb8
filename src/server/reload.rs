//! SIGHUP: reloads the configuration without disconnecting a client.

use std::io;

use log::{error, info, warn};

use super::{PollToken, Server, start, system_state};
use crate::config::{Config, needs_restart};
use crate::daemon::{Address, StartError, bind, hostname, log_fingerprint};
use crate::moment::Moment;
use crate::net::Listener;

impl Server {
    /// Reads the file again. An error in it, or an address that cannot be listened on, changes
    /// nothing.
    pub(super) fn reload(&mut self, now: Moment) {
        let shown =
            self.file.as_ref().map_or("built-in defaults".into(), |f| f.display().to_string());
        match self.try_reload(now) {
            Ok(()) => info!("reloaded {shown}"),
            Err(why) => {
                error!("reload failed, nothing changed: {why}");
                self.system_state.request(now);
            }
        }
    }

    fn try_reload(&mut self, now: Moment) -> Result<(), String> {
        let (mut config, file) =
            Config::load(self.file.as_deref(), &self.home).map_err(|errors| {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                lines.join("; ")
            })?;
        for key in needs_restart(&self.config, &config) {
            warn!("{key} has changed; that needs a restart");
        }
        config.paths = self.config.paths.clone();
        config.store.journal = self.config.store.journal;
        config.server.socket = self.config.server.socket.clone();
        config.server.socket_mode = self.config.server.socket_mode;

        let hostname = hostname();
        let tls = start::tls(&config, &hostname).map_err(|error| error.to_string())?;
        let wanted = start::addresses(&config);
        let new: Vec<_> = wanted
            .iter()
            .filter(|address| !self.listeners.iter().any(|(_, l)| l.configured == **address))
            .cloned()
            .collect();
        let bound = match bind(&new, config.server.socket_mode) {
            Err(StartError::Listen(_, error)) if error.kind() == io::ErrorKind::AddrInUse => {
                self.bind_in_place(&config, &wanted, &new)
            }
            bound => bound,
        };
        let bound = bound.map_err(|error| error.to_string())?;

        // From here on nothing can fail.
        let (remaining, mut closed): (Vec<_>, Vec<_>) =
            self.listeners.drain(..).partition(|(_, l)| wanted.contains(&l.configured));
        self.listeners = remaining;
        for (number, listening) in &mut closed {
            info!("no longer listening on {}", listening.listener.url());
            self.reactor.set_deadline(PollToken::Listener(*number), None);
            start::stop_listening(listening, &mut self.reactor);
        }
        // Before the child that looks up groups is forked, which would hold them open for a while.
        drop(closed);
        let were_in_clear = self.config.bridge.allow_legacy_bridge_clients;
        self.config = config;
        self.file = file.or(self.file.take());
        self.hostname = hostname;
        log_fingerprint(tls.as_ref(), self.tls.as_ref());
        self.tls = tls;
        self.listen(bound);
        self.find_origins();
        self.take_limits(now);
        self.forget_tokens_in_clear(were_in_clear);
        Ok(())
    }

    /// Binds `new` where old listeners that are no longer `wanted` may be in the way: the same port
    /// with or without TLS, or on one address instead of all. They are closed first, and restored
    /// if they were not the cause.
    fn bind_in_place(
        &mut self,
        config: &Config,
        wanted: &[Address],
        new: &[Address],
    ) -> Result<Vec<(Address, Listener)>, StartError> {
        let in_the_way = |old: &Address| {
            !wanted.contains(old) && new.iter().any(|address| address.overlaps(old))
        };
        let (going, remaining): (Vec<_>, Vec<_>) =
            self.listeners.drain(..).partition(|(_, l)| in_the_way(&l.configured));
        self.listeners = remaining;
        let mut given_up = Vec::new();
        for (number, mut listening) in going {
            info!("no longer listening on {}", listening.listener.url());
            self.reactor.set_deadline(PollToken::Listener(number), None);
            start::stop_listening(&mut listening, &mut self.reactor);
            given_up.push(listening.configured);
        }
        let bound = bind(new, config.server.socket_mode);
        if bound.is_err() {
            match bind(&given_up, self.config.server.socket_mode) {
                Ok(old) => self.listen(old),
                Err(error) => error!("{error}"),
            }
        }
        bound
    }

    fn take_limits(&mut self, now: Moment) {
        let config = &self.config;
        crate::logger::begin(config.log.level, config.log.target);
        self.clients.set_limits(start::client_limits(config), now.instant);
        self.tokens.set_limits(config.auth.token_ttl, config.server.max_clients);
        self.hub.set_limits(config.events.max_event, config.events.ring);
        self.dispatcher.set_limits(start::job_limits(config));
        self.storage.store.set_limits(start::store_limits(config));
        self.jobs.set_grace(config.dispatcher.output_grace);
        self.system_state.reload(system_state::limits(config), now);
        self.accounts.helper.set_limits(start::accounts_limits(config));
        self.throttle.set_limits(start::throttle_limits(config));
        self.configure_logs(now);
        self.configure_links(now);
        self.look_at_callers(now);
        self.warn_of_callers();
        self.ask_for_groups(now);
        self.ask_for_keys(now);
    }
}
