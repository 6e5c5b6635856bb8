//! What the process takes, as the kernel counts it, and what the allocator keeps back.

/// The largest resident size so far, in bytes.
pub fn peak_resident() -> u64 {
    let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) else {
        return 0;
    };
    // Both systems count in KiB: getrusage(2).
    u64::try_from(usage.max_rss()).unwrap_or(0) * 1024
}

/// Keeps all pages of this process in memory, those to come included; a child starts without that.
///
/// # Errors
/// Where the limit of locked memory is too low (RLIMIT_MEMLOCK), or the user may not.
pub fn lock() -> std::io::Result<()> {
    // SAFETY: takes flags, touches no memory of ours.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Tells the allocator to give memory back to the system early, and to keep one arena.
///
/// glibc grows its thresholds with what was freed last (mallopt(3), M_MMAP_THRESHOLD), so that one
/// large reply would stay resident for ever. FreeBSD's jemalloc returns memory by itself.
pub fn return_memory_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes integers and is called before there is a second thread (there never is).
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

unsafe extern "C" {
    // Of the linker, ld(1): where the program begins in memory, and where its code ends.
    static __executable_start: u8;
    static etext: u8;
}

/// Gives back the pages of the program's own code and constants, which the start has used and an idle
/// daemon hardly does. What is used again comes back from the file, mostly from the kernel's cache,
/// a few pages at a time. It is advice: pages that are locked stay.
pub fn give_back_code() {
    let (begin, end) = (&raw const __executable_start, &raw const etext);
    let length = (end as usize).saturating_sub(begin as usize);
    // SAFETY: between these two lie only headers, constants and code, which nothing has written to
    // or can, so the file has the same; addresses before and behind are not touched, since the
    // kernel takes whole pages and the one with the end is wholly of that kind (the linker begins
    // what is written on another page). The beginning is that of a page.
    unsafe {
        libc::madvise(begin.cast_mut().cast(), length, libc::MADV_DONTNEED);
    }
}
