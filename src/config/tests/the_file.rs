//! Finding and reading the file, and the messages when that fails.

use super::*;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

/// A directory for one test, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let name = format!("sysadm-events-config-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn home(&self) -> Home {
        Home::User { config: self.0.clone(), state: self.0.clone(), runtime: None }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn files() -> Files {
    Files::of_system(MayBlock::before_loop())
}

fn refused(path: &Path) -> String {
    match Config::load(Some(path), &Home::System, &files()) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn is_read_and_named() {
    let directory = Directory::new("named");
    let path = directory.file("x.toml", b"[log]\nlevel = \"warn\"\n");
    let (config, file) = Config::load(Some(&path), &Home::System, &files()).unwrap();
    assert_eq!(config.log.level, log::LevelFilter::Warn);
    assert_eq!(file, Some(path));
}

#[test]
fn file_of_the_home_is_read_if_it_exists() {
    let directory = Directory::new("home");
    let home = directory.home();
    assert_eq!(Config::load(None, &home, &files()).unwrap(), (Config::defaults(&home), None));
    let path = directory.file("sysadm-events/sysadm-events.toml", b"[auth]\npam = false\n");
    let (config, file) = Config::load(None, &home, &files()).unwrap();
    assert!(!config.auth.pam);
    assert_eq!(file, Some(path));
}

#[test]
fn that_is_named_must_exist() {
    let directory = Directory::new("absent");
    let path = directory.0.join("absent.toml");
    let message = refused(&path);
    assert!(message.starts_with(&format!("{}: cannot be read: ", path.display())), "{message}");
    assert!(message.ends_with("; check the path given with -c"), "{message}");
}

#[test]
fn is_no_directory() {
    let directory = Directory::new("directory");
    let message = refused(&directory.0);
    assert!(
        message.contains("cannot be read: ") && message.ends_with("; name the file in it"),
        "{message}"
    );
}

#[test]
fn file_has_at_most_one_mebibyte() {
    let directory = Directory::new("large");
    let fits = directory.file("fits", &b"#\n".repeat(MAX_FILE / 2));
    assert!(Config::load(Some(&fits), &Home::System, &files()).is_ok());
    let large = directory.file("large", &vec![b'\n'; MAX_FILE + 1]);
    assert!(refused(&large).contains("large: has more than 1MiB"));
    assert!(refused(Path::new("/dev/zero")).contains("has more than 1MiB"));
}

#[test]
fn is_utf8() {
    let directory = Directory::new("latin");
    let path = directory.file("latin", b"[server]\n# gr\xfc\xdfe\n");
    assert_eq!(
        refused(&path),
        format!("{}:2: byte 0xfc is not UTF-8: save the file in UTF-8", path.display())
    );
}

#[test]
fn file_full_of_faults_is_checked_quickly_and_reported_in_part() {
    let text = "[server]\n".to_owned() + &"x = =\n".repeat(20_000);
    assert!(faults(&text).len() <= 101);
    let keys: String = (0..20_000).map(|n| format!("key{n} = {n}\n")).collect();
    let all = faults(&format!("[server]\n{keys}"));
    assert_eq!(all.len(), 101);
    assert_eq!(all[100], "f: 19900 further faults not listed");
}

#[test]
fn file_faults_are_reported_in_the_order_of_lines() {
    let all = faults(
        "[zzz]\n[log]\nlevel = 1\n[auth]\npam = 0\nfail_limit = 0\n[server]\nlisten = [\"a\",\n\"b\"]\n",
    );
    let lines: Vec<&str> = all.iter().filter_map(|fault| fault.split(':').nth(1)).collect();
    assert_eq!(lines, ["1", "3", "5", "6", "8", "9"], "{all:#?}");
}
