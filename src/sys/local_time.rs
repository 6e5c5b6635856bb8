//! Local time.
//!
//! The wire uses UTC; a terminal shows local time. Only the C library knows the rules (`TZ`,
//! `/etc/localtime`), and the `time` crate calls it only in programs that a cfg flag declares
//! single-threaded; so it is called here.

use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime {
    /// Year of the common era.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

/// Converts `moment` to local time; `None` where the C library cannot.
pub fn local_time(moment: SystemTime) -> Option<LocalTime> {
    let seconds = match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => libc::time_t::try_from(after.as_secs()).ok()?,
        Err(before) => -libc::time_t::try_from(before.duration().as_secs()).ok()?,
    };
    let mut broken_down = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid for the call; localtime_r writes the whole structure and
    // returns its address, or returns null.
    let broken_down = unsafe {
        if libc::localtime_r(&seconds, broken_down.as_mut_ptr()).is_null() {
            return None;
        }
        broken_down.assume_init()
    };
    let small = |number: libc::c_int| u8::try_from(number).ok();
    Some(LocalTime {
        year: broken_down.tm_year.checked_add(1900)?,
        month: small(broken_down.tm_mon + 1)?,
        day: small(broken_down.tm_mday)?,
        hour: small(broken_down.tm_hour)?,
        minute: small(broken_down.tm_min)?,
        second: small(broken_down.tm_sec)?,
    })
}

/// Converts a local time; `None` where the C library cannot, or where the day or the hour does not
/// exist. An hour that occurs twice yields one of its moments.
pub fn moment(local: LocalTime) -> Option<SystemTime> {
    // SAFETY: a tm consists of numbers and a pointer that mktime does not read; all zeros is a
    // valid value.
    let mut broken_down: libc::tm = unsafe { MaybeUninit::zeroed().assume_init() };
    broken_down.tm_year = local.year.checked_sub(1900)?;
    broken_down.tm_mon = libc::c_int::from(local.month) - 1;
    broken_down.tm_mday = local.day.into();
    broken_down.tm_hour = local.hour.into();
    broken_down.tm_min = local.minute.into();
    broken_down.tm_sec = local.second.into();
    broken_down.tm_isdst = -1;
    // SAFETY: the pointer is valid for the call.
    let seconds = unsafe { libc::mktime(&mut broken_down) };
    let seconds = u64::try_from(seconds).ok()?;
    let moment = UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))?;
    // mktime turns the 31st of February into the 3rd of March.
    let there = local_time(moment)?;
    ((there.month, there.day) == (local.month, local.day)).then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn local_time_is_within_a_day_of_utc_and_has_its_second() {
        let moment = UNIX_EPOCH + Duration::from_secs(1_795_456_247); // 2026-11-23T17:50:47Z
        let local = local_time(moment).unwrap();
        assert_eq!((local.year, local.month), (2026, 11));
        assert!((22..=24).contains(&local.day));
        assert_eq!(local.second, 47);
    }

    #[test]
    fn local_time_converts_back_to_its_moment() {
        let moments = UNIX_EPOCH + Duration::from_secs(1_795_456_247);
        let local = local_time(moments).unwrap();
        assert_eq!(moment(local), Some(moments));
        assert_eq!(moment(LocalTime { month: 2, day: 31, ..local }), None);
        assert_eq!(moment(LocalTime { year: 1800, ..local }), None);
    }
}
