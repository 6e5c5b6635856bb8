//! Identities, and the assignment of roles by groups.

use crate::sys::peer_credentials::PeerCredentials;
use crate::wire::{ErrorCode, KeyId, Refusal, Role};

/// An authenticated identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name for logs.
    pub user: String,
    /// User number.
    pub uid: u32,
    /// Role.
    pub role: Role,
    /// Method of authentication.
    pub proof: Proof,
    /// Address of the peer, for PAM, also at each re-check; empty where the kernel identified it.
    pub from: String,
}

impl Identity {
    /// Whether it may see, register and revoke keys of that user: its own, and with full access
    /// all.
    pub fn may_manage_keys_of(&self, user: &str) -> bool {
        self.role >= Role::Full || self.user == user
    }

    /// The same identity with at most that role.
    pub fn with_at_most(self, role: Role) -> Identity {
        Identity { role: self.role.min(role), ..self }
    }

    /// False while only the number is known.
    pub fn is_named(&self) -> bool {
        self.proof != Proof::Kernel || self.user != number_as_name(self.uid)
    }
}

/// The name of a user of whom only the number is known; no account has such a name.
pub fn number_as_name(uid: u32) -> String {
    format!("uid {uid}")
}

/// Method of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The kernel: local socket.
    Kernel,
    /// A password of the host.
    Password,
    /// A registered key.
    Key(KeyId),
}

impl Proof {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Proof::Kernel => "local socket",
            Proof::Password => "password",
            Proof::Key(_) => "key",
        }
    }
}

/// Groups of each role. Users in none of them have no role.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Group numbers for the full role.
    pub full: Vec<u32>,
    /// Group numbers for the read role.
    pub read: Vec<u32>,
    /// The daemon's own user, if not root: it has the full role.
    pub own_uid: Option<u32>,
    /// The configured groups of both roles by name, also those that do not exist here.
    pub names: [Vec<String>; 2],
}

impl Roles {
    /// The identity of a local peer, if it has a role. Its name is its number: a look-up could take
    /// minutes if the name service is remote.
    pub fn of(&self, peer: &PeerCredentials) -> Option<Identity> {
        let role = self.role(peer.uid, &peer.groups)?;
        let user = if peer.uid == 0 { "root".to_owned() } else { number_as_name(peer.uid) };
        Some(Identity { user, uid: peer.uid, role, proof: Proof::Kernel, from: String::new() })
    }

    /// The role of a user in these groups.
    pub fn role(&self, uid: u32, groups: &[u32]) -> Option<Role> {
        let in_any = |wanted: &[u32]| groups.iter().any(|group| wanted.contains(group));
        if uid == 0 || self.own_uid == Some(uid) || in_any(&self.full) {
            Some(Role::Full)
        } else {
            in_any(&self.read).then_some(Role::Read)
        }
    }

    /// The refusal of a user who has no role.
    pub fn refuse(&self, user: &str) -> Refusal {
        let [full, read] = self.names.each_ref().map(|names| match names.as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        });
        let why = format!(
            "{user} is in none of the groups that have access here: {full} (full_access_groups), \
             {read} (read_only_groups)"
        );
        Refusal::new(ErrorCode::Forbidden, why)
    }

    /// Whether the role is independent of an account that could be locked or leave a group: root
    /// and the daemon's own user, identified by the kernel.
    pub fn is_beyond_accounts(&self, who: &Identity) -> bool {
        match who.proof {
            Proof::Kernel => who.uid == 0 || self.own_uid == Some(who.uid),
            Proof::Password | Proof::Key(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> PeerCredentials {
        PeerCredentials { uid, groups: groups.to_vec() }
    }

    #[test]
    fn groups_determine_roles_and_other_users_have_none() {
        let roles = Roles { full: vec![10], read: vec![20], ..Roles::default() };
        let role = |uid, groups: &[u32]| roles.of(&peer(uid, groups)).map(|who| who.role);
        assert_eq!(role(0, &[]), Some(Role::Full));
        assert_eq!(role(1000, &[1000, 10, 20]), Some(Role::Full));
        assert_eq!(role(1000, &[20]), Some(Role::Read));
        assert_eq!(role(1000, &[1000]), None);
        let own = Roles { own_uid: Some(1000), ..Roles::default() };
        assert_eq!(own.of(&peer(1000, &[])).map(|who| who.role), Some(Role::Full));
        assert_eq!(own.of(&peer(1001, &[])), None);
    }

    #[test]
    fn refusal_names_the_user_and_the_groups() {
        let names = [vec!["wheel".to_owned(), "sudo".to_owned()], Vec::new()];
        let refusal = Roles { names, ..Roles::default() }.refuse("ann");
        assert_eq!(refusal.code, ErrorCode::Forbidden);
        assert_eq!(
            refusal.why,
            "ann is in none of the groups that have access here: wheel, sudo \
             (full_access_groups), none (read_only_groups)"
        );
    }
}
