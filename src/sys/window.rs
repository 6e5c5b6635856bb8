//! Size of the terminal at standard output.

/// Its current numbers of rows and columns; `None` where it is no terminal or reports none.
pub fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request fills one structure of this type, which is local and outlives the call.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    let is_known = asked == 0 && size.ws_col > 0 && size.ws_row > 0;
    is_known.then(|| (usize::from(size.ws_row), usize::from(size.ws_col)))
}
