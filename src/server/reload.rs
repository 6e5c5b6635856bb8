//! SIGHUP: reloads the configuration without disconnecting a client.

use std::io;
use std::path::Path;

use log::{error, info, warn};
use zeroize::Zeroizing;

use super::errands::{Answer, Errand};
use super::{OpenListener, PollToken, Server, start, system_state};
use crate::config::{Config, Home, needs_restart};
use crate::daemon::{Address, StartError, bind, hostname, log_fingerprint};
use crate::moment::Moment;
use crate::net::Listener;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

/// In the child: reads all files of a reload, and makes the certificate where there is none. The
/// answer is why the certificate cannot be used, if so, with its length before it, and the files.
fn read_files(file: Option<&Path>, home: &Home, may_block: MayBlock) -> Answer {
    let files = Files::recording(may_block);
    // An error in it is found again by who reads the snapshot.
    let unusable = Config::load(file, home, &files)
        .ok()
        .and_then(|(config, _)| start::tls(&config, &hostname(), &files).err())
        .map(|error| error.to_string())
        .unwrap_or_default();
    let length = u32::try_from(unusable.len()).unwrap_or(u32::MAX).to_le_bytes();
    Zeroizing::new([&length, unusable.as_bytes(), &files.snapshot()].concat())
}

fn split(answer: &[u8]) -> Option<(Option<String>, Files)> {
    let (length, rest) = answer.split_first_chunk::<4>()?;
    let (unusable, files) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let unusable = (!unusable.is_empty()).then(|| String::from_utf8_lossy(unusable).into_owned());
    Some((unusable, Files::of_snapshot(files)?))
}

impl Server {
    /// Reads the configuration again, and what it names: in a child, since a file may hang. With an
    /// error in it, or with an address that cannot be listened on, nothing changes.
    pub(super) fn reload(&mut self, now: Moment) {
        if self.errands.is_running(Errand::Reload) {
            // The files may have been read before this signal.
            self.errands.reload_again = true;
            return self.errands.kill(Errand::Reload);
        }
        let (file, home) = (self.file.as_deref(), &self.home);
        let path = file.map_or_else(|| home.config_file(), Path::to_path_buf);
        let work = |may_block| read_files(file, home, may_block);
        let started = self.errands.start(Errand::Reload, &path, &mut self.reactor, now, work);
        if let Err(error) = started {
            self.report_failed_reload(&format!("cannot start a child that reads it: {error}"), now);
        }
    }

    /// The child has read all files, or has ended.
    pub(super) fn on_reload_read(&mut self, answer: &Answer, now: Moment) {
        if std::mem::take(&mut self.errands.reload_again) {
            return self.reload(now);
        }
        let reloaded = split(answer)
            .ok_or_else(|| "the child that reads the files has ended".to_owned())
            .and_then(|(unusable, files)| self.try_reload(&files, unusable, now));
        match reloaded {
            Ok(()) => {
                let shown = self.file.as_ref().map(|file| file.display().to_string());
                self.reloaded = Some(shown.unwrap_or_else(|| "built-in defaults".to_owned()));
            }
            Err(why) => self.report_failed_reload(&why, now),
        }
    }

    fn report_failed_reload(&mut self, why: &str, now: Moment) {
        error!("reload failed, nothing changed: {why}");
        self.system_state.request(now);
    }

    /// Reports a reload once all logs are followed that are new.
    pub(super) fn report_reload(&mut self) {
        if !self.logs.is_finding()
            && let Some(shown) = self.reloaded.take()
        {
            info!("reloaded {shown}");
        }
    }

    /// `unusable` is why the certificate is, where it is.
    fn try_reload(
        &mut self,
        files: &Files,
        unusable: Option<String>,
        now: Moment,
    ) -> Result<(), String> {
        let (mut config, file) =
            Config::load(self.file.as_deref(), &self.home, files).map_err(|errors| {
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
        if let Some(why) = unusable {
            return Err(why);
        }
        let tls = start::tls(&config, &hostname, files).map_err(|error| error.to_string())?;
        let wanted = start::addresses(&config);
        let new: Vec<_> = wanted
            .iter()
            .filter(|address| !self.listeners.iter().any(|open| open.configured == **address))
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
            self.listeners.drain(..).partition(|open| wanted.contains(&open.configured));
        self.listeners = remaining;
        closed.iter_mut().for_each(|open| self.stop_listening(open));
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

    fn stop_listening(&mut self, open: &mut OpenListener) {
        info!("no longer listening on {}", open.listening.listener.url());
        self.reactor.set_deadline(PollToken::Listener(open.number), None);
        open.listening.stop(&mut self.reactor);
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
            self.listeners.drain(..).partition(|open| in_the_way(&open.configured));
        self.listeners = remaining;
        let mut given_up = Vec::new();
        for mut open in going {
            self.stop_listening(&mut open);
            given_up.push(open.configured);
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
        self.dispatcher.set_parallel(start::parallel(config));
        self.storage.store.set_limits(start::store_limits(config), now.instant);
        self.jobs.set_grace(config.dispatcher.output_grace);
        self.system_state.reload(system_state::limits(config), now);
        self.accounts.helper.set_limits(start::accounts_limits(config));
        self.throttle.set_limits(start::throttle_limits(config));
        self.notifications.notifier.set_hostname(&self.hostname);
        self.notifications.notifier.configure(&self.config.notify, now);
        self.notify_of_active_alerts(now);
        self.configure_logs();
        self.alerts.configure(&self.config);
        self.configure_expectations(now);
        self.configure_links(now);
        self.look_at_callers(now);
        self.warn_of_callers();
        self.ask_for_groups(now);
        self.ask_for_keys(now);
    }
}
