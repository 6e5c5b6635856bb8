//! The state of the pools as figures, for alerts.

use super::SystemState;
use super::columns::CAPACITY;
use super::pool::per_cent;
use super::status::Page;

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFigures {
    /// Its name.
    pub name: String,
    /// `ONLINE` where all is well; also of a pool that has disappeared, the way it went.
    pub health: String,
    /// The priority of its health, 0 where all is well.
    pub priority: u8,
    /// First sentence of the explanation of `zpool status`.
    pub explanation: Option<String>,
    /// The errors of the pool, if there are any.
    pub errors: Option<String>,
    /// Used space in per cent, where known.
    pub capacity: Option<usize>,
    /// Free space in bytes, rounded as `zpool list` prints it, where known.
    pub free: Option<u64>,
}

/// All pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolsFigures {
    /// `None` before the first list, and without ZFS.
    pub pools: Option<Vec<PoolFigures>>,
    /// Why `zpool` did not answer the last time, unless this user may not run it.
    pub failure: Option<String>,
}

const ONLINE: &str = "ONLINE";

impl SystemState {
    /// Number of checks that have ended: the figures change with it only.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// The pools as last read, and the failure to read them.
    pub fn figures(&self) -> PoolsFigures {
        let failure = self.last_failure.clone().filter(|_| !self.is_refused);
        let Some(pools) = &self.pools else { return PoolsFigures { pools: None, failure } };
        let mut figures: Vec<PoolFigures> = pools
            .iter()
            .map(|pool| {
                let page = pool.page.as_ref();
                let is_suspended = pool.is_suspended();
                let health = if is_suspended { "SUSPENDED" } else { pool.health() };
                let page_priority = page.map_or(0, Page::priority);
                PoolFigures {
                    name: pool.name.clone(),
                    health: health.to_owned(),
                    priority: if pool.is_online() { 0 } else { 9.max(page_priority) },
                    explanation: page.and_then(Page::status).map(|text| first_sentence(&text)),
                    errors: page.and_then(|page| page.errors.clone()),
                    capacity: per_cent(pool.cell(CAPACITY)),
                    free: bytes(pool.cell("free")),
                }
            })
            .collect();
        for gone in self.gone.iter().filter(|gone| !gone.is_settled()) {
            figures.push(PoolFigures {
                name: gone.name.clone(),
                health: format!("{}, last {}", gone.how(), gone.health),
                priority: gone.priority().number(),
                explanation: None,
                errors: None,
                capacity: None,
                free: None,
            });
        }
        PoolsFigures { pools: Some(figures), failure }
    }
}

impl PoolFigures {
    /// Whether its health is as it should be.
    pub fn is_online(&self) -> bool {
        self.health == ONLINE
    }
}

fn first_sentence(text: &str) -> String {
    let line = text.split('\n').next().unwrap_or_default();
    line.split_inclusive(". ").next().unwrap_or_default().trim().to_owned()
}

/// Parses a size as `zpool list` prints it: `93.9G`, `512K`, or bytes.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(char, u32); 7] =
        [('B', 0), ('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];
    let unit = text.chars().last()?;
    let (digits, shift) = match UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, shift)) => (text.strip_suffix(unit)?, *shift),
        None => (text, 0),
    };
    let number: f64 = digits.parse().ok().filter(|number: &f64| number.is_finite())?;
    (number >= 0.0).then_some((number * 2f64.powi(shift as i32)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_zpool_list_are_bytes() {
        assert_eq!(bytes("93.5G"), Some(93 * (1 << 30) + (1 << 29)));
        assert_eq!(bytes("512K"), Some(512 << 10));
        assert_eq!(bytes("0"), Some(0));
        assert_eq!(bytes("1234567"), Some(1_234_567));
        for wrong in ["", "-", "G", "-1G", "x"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn explanation_is_its_first_sentence() {
        assert_eq!(
            first_sentence("One or more devices. Sufficient\nreplicas"),
            "One or more devices."
        );
        assert_eq!(first_sentence("One device is gone"), "One device is gone");
    }
}
