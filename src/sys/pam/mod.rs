//! Pluggable authentication (PAM), loaded on demand: so the program can be built and started
//! without it.
//!
//! Uses `dlopen` directly: a crate around its four calls would be larger than this file. Linux-PAM
//! and OpenPAM have one interface with different constants, which are in one file each; in both, a
//! conversation receives an array of pointers to messages and returns an array of responses
//! allocated with `malloc`, which the library frees. To be called in a short-lived child: modules
//! may be slow, and may leave state behind.

#[cfg(target_os = "linux")]
mod linux_pam;
#[cfg(target_os = "freebsd")]
mod openpam;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use nix::unistd::User;

#[cfg(target_os = "linux")]
use linux_pam as numbers;
#[cfg(target_os = "freebsd")]
use openpam as numbers;

use super::account_state::{self, AccountState};

/// Result of an authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Success, with the final user name according to PAM.
    Good(String),
    /// The password is wrong, or the user does not exist.
    Wrong,
    /// The account must not be used; the reason.
    Refused(String),
    /// PAM failed; the reason.
    Failed(String),
}

/// Common to both.
const SUCCESS: c_int = 0;
const USER: c_int = 2;
const RHOST: c_int = 4;
const PROMPT_ECHO_OFF: c_int = 1;
const ERROR_MSG: c_int = 3;
const TEXT_INFO: c_int = 4;
const DISALLOW_NULL_AUTHTOK: c_int = 1;
/// Maximum number of messages in one call of a conversation (PAM_MAX_NUM_MSG).
const MESSAGES: c_int = 32;
/// Maximum length of a response, in bytes, including the NUL (PAM_MAX_RESP_SIZE).
pub const LONGEST: usize = 512;

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    code: c_int,
}

type Converse = extern "C" fn(c_int, *mut *const Message, *mut *mut Response, *mut c_void) -> c_int;

#[repr(C)]
struct Conversation {
    converse: Converse,
    data: *mut c_void,
}

/// Opaque handle of libpam.
type Handle = *mut c_void;

type Start =
    unsafe extern "C" fn(*const c_char, *const c_char, *const Conversation, *mut Handle) -> c_int;
type WithNumber = unsafe extern "C" fn(Handle, c_int) -> c_int;
type SetItem = unsafe extern "C" fn(Handle, c_int, *const c_void) -> c_int;
type GetItem = unsafe extern "C" fn(Handle, c_int, *mut *const c_void) -> c_int;
type Explain = unsafe extern "C" fn(Handle, c_int) -> *const c_char;

/// The functions of the library in use.
struct Library {
    start: Start,
    end: WithNumber,
    authenticate: WithNumber,
    acct_mgmt: WithNumber,
    set_item: SetItem,
    get_item: GetItem,
    strerror: Explain,
}

impl Library {
    /// Loads the library for the lifetime of the process.
    fn load() -> Result<Library, String> {
        let open = |name: &&CStr| {
            // SAFETY: a C string; the library's own initialisers run, as for any linked library.
            let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
            (!library.is_null()).then_some(library)
        };
        let Some(library) = numbers::NAMES.iter().find_map(open) else {
            return Err("there is no libpam on this host".to_owned());
        };
        let find = |name: &CStr| {
            // SAFETY: an open library and a C string.
            let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
            if symbol.is_null() { Err(format!("libpam has no {name:?}")) } else { Ok(symbol) }
        };
        // SAFETY: functions of these names have these types, in Linux-PAM and OpenPAM alike.
        unsafe {
            Ok(Library {
                start: std::mem::transmute::<*mut c_void, Start>(find(c"pam_start")?),
                end: std::mem::transmute::<*mut c_void, WithNumber>(find(c"pam_end")?),
                authenticate: std::mem::transmute::<*mut c_void, WithNumber>(find(
                    c"pam_authenticate",
                )?),
                acct_mgmt: std::mem::transmute::<*mut c_void, WithNumber>(find(c"pam_acct_mgmt")?),
                set_item: std::mem::transmute::<*mut c_void, SetItem>(find(c"pam_set_item")?),
                get_item: std::mem::transmute::<*mut c_void, GetItem>(find(c"pam_get_item")?),
                strerror: std::mem::transmute::<*mut c_void, Explain>(find(c"pam_strerror")?),
            })
        }
    }
}

/// Checks the password, if one is given, and whether the account may be used.
pub fn check(service: &CStr, user: &CStr, from: &CStr, secret: Option<&[u8]>) -> Judgement {
    let library = match Library::load() {
        Ok(library) => library,
        Err(why) => return Judgement::Failed(why),
    };
    let mut secret = secret;
    let conversation =
        Conversation { converse, data: ptr::from_mut::<Option<&[u8]>>(&mut secret).cast() };
    let mut handle: Handle = ptr::null_mut();
    // SAFETY: C strings and a conversation that live until `end`; the handle is an out parameter.
    let started = unsafe {
        (library.start)(service.as_ptr(), user.as_ptr(), &raw const conversation, &raw mut handle)
    };
    if started != SUCCESS || handle.is_null() {
        return Judgement::Failed(format!("PAM does not start for the service {service:?}"));
    }
    let (status, judgement) = talk(&library, handle, user, from, secret.is_some());
    // SAFETY: a started handle, which is not used again.
    unsafe { (library.end)(handle, status) };
    judgement
}

fn talk(
    library: &Library,
    handle: Handle,
    user: &CStr,
    from: &CStr,
    by_password: bool,
) -> (c_int, Judgement) {
    // SAFETY: the handle is started; the C string is copied.
    let mut status = unsafe { (library.set_item)(handle, RHOST, from.as_ptr().cast()) };
    if status == SUCCESS && by_password {
        let flags = numbers::SILENT | DISALLOW_NULL_AUTHTOK;
        // SAFETY: the handle is started.
        status = unsafe { (library.authenticate)(handle, flags) };
    }
    // The meaning depends on the function: `authenticate` does not check the account.
    let wrong = [numbers::AUTH_ERR, numbers::USER_UNKNOWN, numbers::MAXTRIES, numbers::PERM_DENIED];
    if wrong.contains(&status) {
        return (status, Judgement::Wrong);
    }
    if status == SUCCESS {
        // SAFETY: the handle is started.
        status = unsafe { (library.acct_mgmt)(handle, numbers::SILENT | DISALLOW_NULL_AUTHTOK) };
    }
    let judgement = match status {
        SUCCESS => name_in(library, handle),
        numbers::NEW_AUTHTOK_REQD | numbers::AUTHTOK_EXPIRED => {
            Judgement::Refused(why_new_password(user).to_owned())
        }
        numbers::ACCT_EXPIRED => Judgement::Refused("the account has expired".to_owned()),
        _ if wrong.contains(&status) => Judgement::Refused(why_unusable(user).to_owned()),
        _ => Judgement::Failed(explain(library, handle, status)),
    };
    (status, judgement)
}

/// Why PAM requires a new password: pam_unix(8) of FreeBSD reports an empty password like an
/// expired one.
fn why_new_password(user: &CStr) -> &'static str {
    if account(user).as_ref().is_some_and(account_state::has_empty_password) {
        "its password is empty, and empty passwords are refused: set one with passwd(1)"
    } else {
        "its password has expired"
    }
}

/// Why PAM refuses an account: pam_unix(8) of FreeBSD has no status of its own for a locked one.
fn why_unusable(user: &CStr) -> &'static str {
    match account(user).map(|user| account_state::of(&user)) {
        Some(Ok(AccountState::Locked)) => "the account is locked",
        _ => "the account may not be used",
    }
}

fn account(user: &CStr) -> Option<User> {
    User::from_name(user.to_str().ok()?).ok().flatten()
}

/// The user's name; a module may have changed it.
fn name_in(library: &Library, handle: Handle) -> Judgement {
    let mut name: *const c_void = ptr::null();
    // SAFETY: the handle is started; the pointer is an out parameter.
    let status = unsafe { (library.get_item)(handle, USER, &raw mut name) };
    if status != SUCCESS || name.is_null() {
        return Judgement::Failed("PAM does not say whose password it is".to_owned());
    }
    // SAFETY: not null, therefore a C string of the handle.
    let name = unsafe { CStr::from_ptr(name.cast()) };
    name.to_str().map_or_else(
        |_| Judgement::Failed("the user's name is not UTF-8".to_owned()),
        |name| Judgement::Good(name.to_owned()),
    )
}

fn explain(library: &Library, handle: Handle, status: c_int) -> String {
    // SAFETY: the handle is started.
    let text = unsafe { (library.strerror)(handle, status) };
    if text.is_null() {
        return format!("PAM fails with {status}");
    }
    // SAFETY: not null, therefore a C string of the library.
    format!("PAM: {}", unsafe { CStr::from_ptr(text) }.to_string_lossy())
}

/// The conversation function: the password for a hidden prompt, an empty response to informational
/// messages, an error for anything else.
extern "C" fn converse(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    let many = usize::try_from(count).unwrap_or(0);
    if many == 0 || count > MESSAGES || messages.is_null() || responses.is_null() || data.is_null()
    {
        return numbers::CONV_ERR;
    }
    // SAFETY: the pointer passed by `check`, which outlives the conversation.
    let secret = unsafe { *data.cast::<Option<&[u8]>>() };
    // SAFETY: `many` pointers to messages, as PAM guarantees, which live during this call.
    let styles = (0..many).map(|at| unsafe { (**messages.add(at)).style }).collect::<Vec<_>>();
    let is_answerable = |style: &c_int| match (*style, secret) {
        (PROMPT_ECHO_OFF, Some(secret)) => secret.len() < LONGEST,
        (style, _) => style == ERROR_MSG || style == TEXT_INFO,
    };
    if !styles.iter().all(is_answerable) {
        return numbers::CONV_ERR;
    }
    // SAFETY: zeroed memory for `many` responses; all zeros is a response without text.
    let array = unsafe { libc::calloc(many, size_of::<Response>()) }.cast::<Response>();
    if array.is_null() {
        return numbers::CONV_ERR;
    }
    for (at, style) in styles.iter().enumerate() {
        if let (PROMPT_ECHO_OFF, Some(secret)) = (*style, secret) {
            // SAFETY: `at` is within the array; the text is allocated with malloc as PAM requires,
            // which overwrites and frees it; zeroed, so that it is terminated after the secret,
            // which fits.
            unsafe {
                let text = libc::calloc(LONGEST, 1).cast::<u8>();
                if !text.is_null() {
                    ptr::copy_nonoverlapping(secret.as_ptr(), text, secret.len());
                }
                (*array.add(at)).text = text.cast();
            }
        }
    }
    // SAFETY: PAM's out parameter; PAM owns the array from now on.
    unsafe { *responses = array };
    SUCCESS
}
