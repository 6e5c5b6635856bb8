//! Processor time of the calling thread.

use std::time::Duration;

/// Time that the calling thread has spent on a processor; zero where the system does not report it.
pub fn of_thread() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec` to a valid, exclusive reference.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    match (result, u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (0, Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = of_thread();
        let mut sum = 0_u64;
        while of_thread() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(of_thread() > before);
    }
}
