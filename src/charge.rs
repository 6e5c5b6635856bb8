//! Accounts of bounded resources, and charges to them.
//!
//! No user may take the share of others: each resource that a peer can make the daemon hold
//! (connections, queued bytes, unfinished messages) is charged to the peer's user, and through that
//! to all users together. A [`Charge`] returns its amount on drop, so that no code path can omit it
//! (the model is `UserCharge` of dbus-broker).

use std::cell::Cell;
use std::rc::Rc;

/// The sum of current charges. Clones are the same account.
#[derive(Clone, Debug, Default)]
pub struct Account(Rc<Total>);

#[derive(Debug, Default)]
struct Total {
    used: Cell<usize>,
    parent: Option<Account>,
}

impl Account {
    /// An account whose charges also count in `parent`.
    pub fn within(parent: &Account) -> Account {
        Account(Rc::new(Total { used: Cell::new(0), parent: Some(parent.clone()) }))
    }

    /// The sum of its charges.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    fn replace(&self, before: usize, after: usize) {
        self.0.used.set(self.0.used.get().saturating_sub(before).saturating_add(after));
        if let Some(parent) = &self.0.parent {
            parent.replace(before, after);
        }
    }
}

/// An amount charged to an account until it is dropped.
#[derive(Debug, Default)]
pub struct Charge {
    account: Account,
    amount: usize,
}

impl Charge {
    /// Charges `amount` to `account`.
    pub fn new(account: &Account, amount: usize) -> Charge {
        account.replace(0, amount);
        Charge { account: account.clone(), amount }
    }

    /// The charged amount.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Replaces the charged amount.
    pub fn set(&mut self, amount: usize) {
        if amount != self.amount {
            self.account.replace(self.amount, amount);
            self.amount = amount;
        }
    }

    /// Moves the amount to another account.
    pub fn move_to(&mut self, account: &Account) {
        *self = Charge::new(account, self.amount);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.replace(self.amount, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charge_dropped_returns_its_amount() {
        let total = Account::default();
        let (amy, bob) = (Account::within(&total), Account::within(&total));
        let mut charge = Charge::new(&amy, 5);
        let other = Charge::new(&bob, 7);
        charge.set(9);
        assert_eq!((amy.used(), bob.used(), total.used()), (9, 7, 16));
        charge.set(2);
        drop(other);
        assert_eq!((amy.used(), bob.used(), total.used()), (2, 0, 2));
        drop(charge);
        assert_eq!((amy.used(), total.used()), (0, 0));
    }

    #[test]
    fn charge_moved_counts_in_the_new_account_only() {
        let total = Account::default();
        let (amy, bob) = (Account::within(&total), Account::within(&total));
        let mut charge = Charge::new(&amy, 5);
        charge.move_to(&bob);
        assert_eq!((amy.used(), bob.used(), total.used()), (0, 5, 5));
    }
}
