//! Memory use of the process according to the kernel, and settings of the allocator.

/// Maximum resident set size so far, in bytes.
pub fn peak_resident() -> u64 {
    let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) else {
        return 0;
    };
    // Both systems count in KiB: getrusage(2).
    u64::try_from(usage.max_rss()).unwrap_or(0) * 1024
}

/// Locks all present and future pages of this process in memory; children do not inherit that.
///
/// # Errors The limit of locked memory is too low (RLIMIT_MEMLOCK), or the user lacks the
/// privilege.
pub fn lock() -> std::io::Result<()> {
    // SAFETY: takes flags, touches no memory of this process.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes the allocator return memory to the system early, and use one arena.
///
/// glibc grows its thresholds with the size of freed blocks (mallopt(3), M_MMAP_THRESHOLD), so that
/// one large reply would stay resident for ever. FreeBSD's jemalloc returns memory by itself.
pub fn return_memory_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes integers, and the process has one thread.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

unsafe extern "C" {
    // Symbols of the linker, ld(1): the start of the program in memory, and the end of its code.
    static __executable_start: u8;
    static etext: u8;
}

/// Releases the pages of the program's own code and constants, which start-up used and an idle
/// daemon hardly needs. Pages used again are read from the file, usually from the kernel's cache.
/// This is advice to the kernel: locked pages stay.
pub fn give_back_code() {
    let (begin, end) = (&raw const __executable_start, &raw const etext);
    let length = (end as usize).saturating_sub(begin as usize);
    // SAFETY: between these two addresses lie only headers, constants and code, which are never
    // written, so the file has the same content; addresses outside are not touched, because the
    // kernel rounds to whole pages and the last page contains nothing else (the linker starts
    // writable data on another page). The start is page-aligned.
    unsafe {
        libc::madvise(begin.cast_mut().cast(), length, libc::MADV_DONTNEED);
    }
}
