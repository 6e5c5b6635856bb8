//! Authentication: the part that needs no worker.

use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::{Denied, Handled, Known, RequestContext, Session};
use crate::auth::key::{LegacySearch, Purpose};
use crate::auth::{Identity, Tokens};
use crate::moment::Moment;
use crate::wire::{Credentials, ErrorCode, KeyId, Refusal, Reply};

fn no_random_bits() -> Refusal {
    Refusal::new(ErrorCode::Internal, "the system gives no random bits")
}

impl Session {
    pub(super) fn authenticate(
        &mut self,
        credentials: Credentials,
        context: &mut RequestContext<'_>,
    ) -> Result<Handled, Denied> {
        match credentials {
            Credentials::Transport => {
                let Known::Somebody(known) = self.known.clone() else {
                    let why = "only the local socket knows its peer without a password or token";
                    return Err(self.deny(why, context.roles));
                };
                Ok(Handled::Reply(self.authenticated(known, context.tokens, context.now)?))
            }
            Credentials::Password { user, secret } => Ok(Handled::Password { user, secret }),
            Credentials::Token(text) => Ok(self.redeem(text, context)),
            Credentials::Challenge { is_legacy } => {
                let string = self.challenge.issue(context.now.instant, &SystemRandom::new());
                let string = string.ok_or_else(no_random_bits)?;
                Ok(Handled::Challenge { string, is_legacy })
            }
            Credentials::Signature { key, signature } => {
                let string = self.signed_string(context.now)?;
                Ok(self.verify(key, &string, &signature, context))
            }
            Credentials::LegacySignature { signature } => {
                let string = self.signed_string(context.now)?;
                Ok(Handled::LegacyKey(LegacySearch::new(string, signature)))
            }
        }
    }

    /// Sets the identity after successful authentication. Returns the reply, with a token.
    pub fn authenticated(
        &mut self,
        identity: Identity,
        tokens: &mut Tokens,
        now: Moment,
    ) -> Result<Reply, Refusal> {
        let identity = self.below_ceiling(identity);
        let issued = tokens.issue(identity.clone(), now.instant);
        let (text, token) = issued.ok_or_else(no_random_bits)?;
        self.identity = Some(identity);
        if self.ceiling.is_some() {
            // Without the bound a token would grant the user's full role elsewhere.
            tokens.revoke(token);
        } else {
            self.token = Some(token);
        }
        Ok(Reply::Token(text, tokens.ttl().as_secs()))
    }

    fn redeem(&mut self, text: Zeroizing<String>, context: &mut RequestContext<'_>) -> Handled {
        let Some((identity, token)) = context.tokens.redeem(&text, context.now.instant) else {
            let (what, why) = ("token".to_owned(), "no such token, or its time is over");
            return Handled::Wrong { what, why };
        };
        self.identity = Some(self.below_ceiling(identity));
        self.token = Some(token);
        Handled::Reply(Reply::Token(text, context.tokens.ttl().as_secs()))
    }

    /// The string that was to be signed; it is good for one signature.
    fn signed_string(&mut self, now: Moment) -> Result<Zeroizing<String>, Refusal> {
        self.challenge.take(now.instant).ok_or_else(|| {
            let why = "no test_string waits to be signed; it is good for one try and 30 s";
            Refusal::new(ErrorCode::Unauthorized, why)
        })
    }

    fn verify(
        &self,
        key: Option<KeyId>,
        string: &str,
        signature: &[u8],
        context: &RequestContext<'_>,
    ) -> Handled {
        let why = "no registered key made this";
        let Some(entry) = key.and_then(|id| context.keys.find(&id)) else {
            return Handled::Wrong { what: "key".to_owned(), why };
        };
        let id = entry.key.id();
        if entry.key.verify(Purpose::Server, &self.certificate, string, signature) {
            return Handled::Key { user: entry.user.clone(), id };
        }
        Handled::Wrong { what: format!("key {id} of {:?}", entry.user), why }
    }
}
