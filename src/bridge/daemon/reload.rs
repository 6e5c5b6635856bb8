//! SIGHUP: reloads configuration, certificate and keys without disconnecting a peer; and changes of
//! the key file.

use std::time::Duration;

use log::{error, info, warn};

use super::judge::registration;
use super::{Bridge, KEYS_PAUSE, PollToken, start};
use crate::auth::key::KeyReader;
use crate::config::{Config, MAX_FILE, relay_needs_restart};
use crate::daemon::log_fingerprint;
use crate::moment::{Budget, Moment};

/// Time of a turn for the lines of the key file.
const READING: Duration = Duration::from_micros(1000);

impl Bridge {
    /// Reads all files again. An error in one of them changes nothing, but registered keys are
    /// reloaded in any case.
    pub(super) fn reload(&mut self, now: Moment) {
        self.read_keys(now);
        let shown = self.places.config.as_ref();
        let shown = shown.map_or("built-in defaults".into(), |p| p.path.display().to_string());
        match self.try_reload(now) {
            Ok(()) => info!("reloaded {shown}"),
            Err(why) => error!("reload failed, nothing changed: {why}"),
        }
    }

    fn try_reload(&mut self, now: Moment) -> Result<(), String> {
        let mut config = match &self.places.config {
            None => Config::defaults(&self.home),
            Some(place) => {
                let bytes = place
                    .read(MAX_FILE as u64)
                    .map_err(|error| format!("cannot read {}: {error}", place.path.display()))?;
                Config::of_bytes(&bytes, &place.path, &self.home, &self.files).map_err(
                    |errors| {
                        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                        lines.join("; ")
                    },
                )?
            }
        };
        let identity = self.places.identity().map_err(|error| error.to_string())?;
        for key in relay_needs_restart(&self.config, &config) {
            warn!("{key} has changed; that needs a restart");
        }
        let (old, new) = (&self.config.relay, &mut config.relay);
        new.listen.clone_from(&old.listen);
        new.socket.clone_from(&old.socket);
        new.certificate.clone_from(&old.certificate);
        new.private_key.clone_from(&old.private_key);
        new.state.clone_from(&old.state);
        new.user.clone_from(&old.user);

        log_fingerprint(Some(&identity.tls), Some(&self.identity.tls));
        self.identity = identity;
        self.config = config;
        crate::logger::set_level(self.config.log.level);
        let listeners = self.listeners.iter().map(|listening| &listening.listener);
        self.origins = start::origins(&self.config, &self.hostname, listeners);
        self.connections.set_limits(start::connection_limits(&self.config), now.instant);
        self.throttle.set_limits(start::throttle_limits(&self.config));
        Ok(())
    }

    /// Reads the file of registered keys, which may have changed.
    pub(super) fn read_keys(&mut self, now: Moment) {
        let content = match self.places.keys() {
            Ok(content) => content,
            Err(error) => {
                self.reactor.set_deadline(PollToken::Keys, Some(now.instant + KEYS_PAUSE));
                if !std::mem::replace(&mut self.keys_are_old, true) {
                    error!("cannot read the registered keys, those from before hold: {error}");
                }
                return;
            }
        };
        self.reactor.set_deadline(PollToken::Keys, None);
        self.keys_are_old = false;
        self.key_reader = Some(KeyReader::new(content));
        self.go_on_reading_keys();
    }

    /// Reads lines of new content as long as the time for that allows; then the keys are in force.
    pub(super) fn go_on_reading_keys(&mut self) {
        let Some(reader) = &mut self.key_reader else { return };
        let budget = Budget::of(READING);
        while reader.read_line() {
            if budget.is_spent() {
                return self.reactor.again(PollToken::Keys);
            }
        }
        let Some(reader) = self.key_reader.take() else { return };
        let keys = self.places.parsed_keys(reader);
        if keys == self.keys {
            return;
        }
        info!("registered keys: {}", keys.len());
        self.relay.revise(|before| {
            let entry = keys.find(&before.key)?;
            (entry.legacy || !before.legacy).then(|| registration(entry, before.legacy))
        });
        self.keys = keys;
    }
}
