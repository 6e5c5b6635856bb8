//! Keys and signatures of other programs: see `tests/keys`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::sys::may_block::MayBlock;

const MAY_BLOCK: MayBlock = MayBlock::before_loop();

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("../../../tests/keys/", $name))
    };
}

const CERTIFICATE: [u8; 32] = [0x11; 32];

fn public(text: &str) -> PublicKey {
    PublicKey::from_pem(text.as_bytes()).unwrap()
}

fn private(text: &str) -> PrivateKey {
    PrivateKey::from_pem(text.as_bytes()).unwrap()
}

fn decode(text: &str) -> Vec<u8> {
    STANDARD.decode(text.trim()).unwrap()
}

fn string() -> String {
    "abcdefghij".repeat(16)
}

#[test]
fn every_form_of_a_key_is_the_same_key() {
    let rsa = public(file!("rsa-public.pem"));
    for text in [
        file!("rsa-rsapublic.pem"),
        file!("rsa-certificate.pem"),
        file!("rsa.pem"),
        file!("rsa-traditional.pem"),
    ] {
        assert_eq!(public(text), rsa);
    }
    assert_eq!(rsa.id().to_string(), "Q1mNoZp8dqafa1IQ/ga4oRQqTUkaHGrejcxYgzKUx1c=");
    assert_eq!(rsa.pem(), file!("rsa-public.pem"));
    assert_eq!(rsa.checksum(), "vztZL9XWakpyTZ34lrEDCQ==");
    assert!(rsa.is_rsa());
    let ed25519 = public(file!("ed25519-public.pem"));
    for text in [file!("ed25519-certificate.pem"), file!("ed25519.pem")] {
        assert_eq!(public(text), ed25519);
    }
    assert_eq!(ed25519.id().to_string(), "yQU9Y7YKSKjuk0jhHC7xNT7/rwE5UP5u9UOGjhtMCOI=");
    assert_eq!(ed25519.pem(), file!("ed25519-public.pem"));
    assert!(!ed25519.is_rsa());
    assert_eq!(KeyId::parse(&rsa.id().to_string()), Some(rsa.id()));
    for no in ["", "Q1mN", "x", "Q1mNoZp8dqafa1IQ/ga4oRQqTUkaHGrejcxYgzKUx1c=="] {
        assert_eq!(KeyId::parse(no), None, "{no:?}");
    }
}

#[test]
fn private_key_written_and_read_is_unchanged() {
    for text in [file!("rsa.pem"), file!("ed25519.pem")] {
        assert_eq!(*private(text).to_pem(), text);
    }
    assert_eq!(*private(file!("rsa-traditional.pem")).to_pem(), file!("rsa.pem"));
}

#[test]
fn unsupported_keys_are_rejected() {
    let refused = |text: &str| PublicKey::from_pem(text.as_bytes()).unwrap_err();
    assert_eq!(refused(file!("refused-p256.pem")), KeyError::Algorithm);
    assert_eq!(refused(file!("refused-rsa1024.pem")), KeyError::Size(1024));
    let why = refused(file!("refused-passphrase.pem"));
    assert_eq!(why, KeyError::Unknown("ENCRYPTED PRIVATE KEY".into()));
    for text in ["", "-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----\n"] {
        PublicKey::from_pem(text.as_bytes()).unwrap_err();
    }
    let no = PrivateKey::from_pem(file!("rsa-public.pem").as_bytes()).unwrap_err();
    assert_eq!(no, KeyError::NoPrivateKey);
}

#[test]
fn truncated_or_changed_key_is_rejected_or_another_key() {
    for text in [file!("rsa-public.pem"), file!("ed25519-certificate.pem"), file!("rsa.pem")] {
        let (kind, der) = pem::read(text.as_bytes()).unwrap();
        let name = match kind {
            pem::Kind::PublicKey => "PUBLIC KEY",
            pem::Kind::Certificate => "CERTIFICATE",
            pem::Kind::PrivateKey => "PRIVATE KEY",
            pem::Kind::RsaPublicKey | pem::Kind::RsaPrivateKey | pem::Kind::OpenSsh => {
                unreachable!()
            }
        };
        for at in 0..der.len() {
            let cut = pem::write(name, &der[..at]);
            if kind != pem::Kind::Certificate {
                PublicKey::from_pem(cut.as_bytes()).unwrap_err();
            }
            let mut changed = der.to_vec();
            changed[at] ^= 0x81;
            // The result, a key or not, is parsed or rejected without a panic.
            let _ = PublicKey::from_pem(pem::write(name, &changed).as_bytes());
        }
    }
}

#[test]
fn a_huge_exponent_is_refused() {
    let modulus = [0xff; 256];
    assert_eq!(PublicKey::rsa(&modulus, &[0x03; 5]).unwrap_err(), KeyError::Exponent);
    assert_eq!(PublicKey::rsa(&modulus, &[1, 0, 0]).unwrap_err(), KeyError::Exponent);
    assert_eq!(PublicKey::rsa(&modulus, &[1]).unwrap_err(), KeyError::Exponent);
    assert_eq!(PublicKey::rsa(&[0xff; 1025], &[1, 0, 1]).unwrap_err(), KeyError::Size(8200));
    assert_eq!(PublicKey::rsa(&[0x7f; 256], &[1, 0, 1]).unwrap_err(), KeyError::Size(2047));
    assert!(PublicKey::rsa(&modulus, &[3]).unwrap().can_be_legacy());
    assert!(PublicKey::rsa(&[0xff; 512], &[1, 0, 1]).unwrap().can_be_legacy());
    assert!(!PublicKey::rsa(&[0xff; 513], &[1, 0, 1]).unwrap().can_be_legacy());
    assert!(!PublicKey::rsa(&modulus, &[2, 0, 1]).unwrap().can_be_legacy());
}

#[test]
fn openssl_signature_is_valid_for_its_context_only() {
    for (key, signature) in [
        (file!("ed25519-public.pem"), file!("ed25519-signature.base64")),
        (file!("rsa-public.pem"), file!("rsa-signature.base64")),
    ] {
        let (key, signature) = (public(key), decode(signature));
        assert!(key.verify(Purpose::Server, &CERTIFICATE, &string(), &signature));
        assert!(!key.verify(Purpose::Bridge, &CERTIFICATE, &string(), &signature));
        assert!(!key.verify(Purpose::Server, &NO_CERTIFICATE, &string(), &signature));
        assert!(!key.verify(Purpose::Server, &CERTIFICATE, &string()[1..], &signature));
        assert!(!key.verify(Purpose::Server, &CERTIFICATE, &string(), &signature[1..]));
        assert!(!key.verify(Purpose::Server, &CERTIFICATE, &string(), &[]));
        let other = PrivateKey::generate(Kind::Ed25519).unwrap();
        assert!(!other.public().verify(Purpose::Server, &CERTIFICATE, &string(), &signature));
        assert!(!key.verify_raw(&string(), &signature));
    }
}

#[test]
fn own_signature_is_accepted() {
    for key in [private(file!("ed25519.pem")), private(file!("rsa.pem"))] {
        let signature = key.sign(Purpose::Bridge, &CERTIFICATE, &string()).unwrap();
        assert!(key.public().verify(Purpose::Bridge, &CERTIFICATE, &string(), &signature));
        assert!(!key.public().verify(Purpose::Server, &CERTIFICATE, &string(), &signature));
    }
}

#[test]
fn the_raw_form_is_that_of_openssl_and_of_the_original_client() {
    let (rsa, ed25519) = (private(file!("rsa.pem")), private(file!("ed25519.pem")));
    let encrypted = decode(file!("rsa-encrypted.base64"));
    assert!(rsa.public().verify_raw(&string(), &encrypted));
    assert_eq!(rsa.sign_raw(&string()).unwrap(), encrypted);
    assert!(!rsa.public().verify_raw(&string()[1..], &encrypted));
    assert!(!rsa.public().verify_raw(&string(), &encrypted[1..]));
    assert!(!rsa.public().verify_raw(&string(), &[]));
    assert!(!rsa.public().verify_raw("", &encrypted));
    assert!(!rsa.public().verify(Purpose::Server, &CERTIFICATE, &string(), &encrypted));
    let (client, sent) = (file!("qt-client-public.pem"), file!("qt-client-encrypted.base64"));
    assert!(public(client).verify_raw("bT1qYorkpuzSb3rEvamf", &decode(sent)));
    assert!(!rsa.public().verify_raw("bT1qYorkpuzSb3rEvamf", &decode(sent)));
    assert_eq!(public(client).checksum(), "NRLsKMJakQPEP1GUKedwBw==");
    let too_long = "a".repeat(246);
    let digest = "1234567890123456789\0".to_owned();
    for no in ["", "abc", &too_long, &digest, "1234567890 1234567890"] {
        assert_eq!(rsa.sign_raw(no).unwrap_err(), KeyError::NotRaw, "{no:?}");
    }
    assert_eq!(ed25519.sign_raw(&string()).unwrap_err(), KeyError::NotRaw);
    assert!(!ed25519.public().verify_raw(&string(), &encrypted));
}

#[test]
fn keys_that_are_made_here_are_whole() {
    for kind in [Kind::Ed25519, Kind::Rsa] {
        let (made, other) = (PrivateKey::generate(kind).unwrap(), PrivateKey::generate(kind));
        assert_ne!(made.public().id(), other.unwrap().public().id());
        let read = PrivateKey::from_pem(made.to_pem().as_bytes()).unwrap();
        assert_eq!(read.public(), made.public());
        let signature = read.sign(Purpose::Server, &CERTIFICATE, &string()).unwrap();
        assert!(made.public().verify(Purpose::Server, &CERTIFICATE, &string(), &signature));
        if kind == Kind::Rsa {
            assert!(made.public().verify_raw(&string(), &read.sign_raw(&string()).unwrap()));
        }
    }
}

mod file {
    use super::*;
    use crate::auth::Role;
    use std::convert::Infallible;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const LIMITS: KeyLimits = KeyLimits { of_user: 3, total: 5, legacy: 2, legacy_of_user: 2 };

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("se-keys-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(user: &str, key: PublicKey, legacy: bool) -> Entry {
        Entry {
            user: user.into(),
            key,
            nickname: "of \"mine\"".into(),
            email: String::new(),
            added: "2026-11-24T20:00:00Z".into(),
            legacy,
            role: Role::Full,
            checksums: vec!["NRLsKMJakQPEP1GUKedwBw==".into()],
        }
    }

    fn new_key() -> PublicKey {
        PrivateKey::generate(Kind::Ed25519).unwrap().public().clone()
    }

    fn add(store: &mut KeyStore, entry: Entry) -> Result<(), InsertError> {
        store.insert(entry, &LIMITS)
    }

    #[test]
    fn key_store_written_and_read_is_unchanged_and_private() {
        let folder = Folder::new("written");
        let path = KeyStore::path(&folder.0);
        assert!(KeyStore::read(&path, MAY_BLOCK).unwrap().0.is_empty());
        let entries =
            [entry("a", new_key(), false), entry("b", public(file!("rsa-public.pem")), true)];
        for entry in &entries {
            KeyStore::change(&path, MAY_BLOCK, |store| add(store, entry.clone())).unwrap();
        }
        let (store, damaged) = KeyStore::read(&path, MAY_BLOCK).unwrap();
        assert_eq!(store.iter().cloned().collect::<Vec<_>>(), entries);
        assert!(damaged.is_empty());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.legacy().count(), 1);
        assert_eq!(store.of("a").count(), 1);
        assert_eq!(store.find(&entries[1].key.id()), Some(&entries[1]));
        let gone = KeyStore::change(&path, MAY_BLOCK, |store| {
            assert!(!store.revoke("a", &entries[1].key.id()), "it is not a's");
            Ok::<_, Infallible>(store.revoke("b", &entries[1].key.id()))
        });
        assert!(gone.unwrap());
        assert_eq!(KeyStore::read(&path, MAY_BLOCK).unwrap().0.len(), 1);
    }

    #[test]
    fn damaged_line_affects_no_other_and_is_set_aside() {
        let folder = Folder::new("damaged");
        let path = KeyStore::path(&folder.0);
        let first = entry("a", new_key(), false);
        KeyStore::change(&path, MAY_BLOCK, |store| add(store, first.clone())).unwrap();
        let mut text = fs::read(&path).unwrap();
        let twice = text.clone();
        text.extend(b"{\"user\": \"b\"\n\n\xff\xfe\n{\"user\":\"b\",\"key\":\"junk\"}\n");
        text.extend(twice);
        fs::write(&path, text).unwrap();
        let (store, damaged) = KeyStore::read(&path, MAY_BLOCK).unwrap();
        assert_eq!(store.len(), 1);
        let lines: Vec<usize> = damaged.iter().map(|damaged| damaged.line).collect();
        assert_eq!(lines, [2, 4, 5, 6]);
        assert_eq!(damaged[3].why, "the key stands there twice, first for a");
        KeyStore::change(&path, MAY_BLOCK, |store| add(store, entry("b", new_key(), false)))
            .unwrap();
        let (store, damaged) = KeyStore::read(&path, MAY_BLOCK).unwrap();
        assert_eq!((store.len(), damaged.len()), (2, 0));
        let aside = fs::read(folder.0.join("keys.damaged")).unwrap();
        assert!(aside.starts_with(b"{\"user\": \"b\"\n\xff\xfe\n"));
    }

    #[test]
    fn key_reader_reads_one_line_in_a_step() {
        let mut store = KeyStore::default();
        let limits = KeyLimits { of_user: 9, total: 9, ..LIMITS };
        for _ in 0..5 {
            store.insert(entry("ann", new_key(), false), &limits).unwrap();
        }
        let mut bytes = store.to_bytes();
        bytes.extend(b"\n{\"user\"\n");
        let mut reader = KeyReader::new(bytes);
        let mut lines = 0;
        while reader.read_line() {
            lines += 1;
        }
        assert_eq!(lines, 7);
        assert!(!reader.read_line());
        let (read, damaged) = reader.finish();
        assert_eq!(read, store);
        assert_eq!(damaged.iter().map(|damaged| damaged.line).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn line_with_any_byte_changed_is_damaged_and_no_key() {
        let mut store = KeyStore::default();
        for (user, role) in [("ann", Role::Read), ("bob", Role::Full)] {
            add(&mut store, Entry { role, ..entry(user, new_key(), false) }).unwrap();
        }
        let bytes = store.to_bytes();
        assert_eq!(KeyStore::parse(bytes.clone()), (store.clone(), Vec::new()));
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let [_, bob] = &store.iter().collect::<Vec<_>>()[..] else { panic!() };
        for at in 0..bytes.len() {
            for bits in [0x01, 0x02, 0x08, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= bits;
                let (read, damaged) = KeyStore::parse(changed);
                assert!(!damaged.is_empty(), "byte {at}");
                assert!(read.iter().all(|key| store.iter().any(|known| known == key)), "byte {at}");
                if at < first {
                    assert_eq!(read.iter().collect::<Vec<_>>(), [*bob], "byte {at}");
                    assert_eq!(damaged[0].line, 1);
                }
            }
        }
    }

    #[test]
    fn lines_without_checksum_get_one_with_the_next_change() {
        let folder = Folder::new("old");
        let path = KeyStore::path(&folder.0);
        let old = entry("a", new_key(), false);
        let line = serde_json::to_string(&old).unwrap();
        assert!(!line.contains("\"sum\"") && !line.contains("role"));
        fs::write(&path, format!("{line}\n")).unwrap();
        let (store, damaged) = KeyStore::read(&path, MAY_BLOCK).unwrap();
        assert_eq!((store.iter().next(), damaged.len()), (Some(&old), 0));
        KeyStore::change(&path, MAY_BLOCK, |store| add(store, entry("b", new_key(), false)))
            .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains(",\"sum\":\"")).count(), 2, "{text}");
        fs::write(&path, text.replacen("\"a\"", "\"c\"", 1)).unwrap();
        let (store, damaged) = KeyStore::read(&path, MAY_BLOCK).unwrap();
        assert_eq!((store.len(), damaged.len()), (1, 1));
        assert!(damaged[0].why.contains("checksum"), "{}", damaged[0].why);
    }

    #[test]
    fn key_described_again_keeps_its_role_or_gains_a_higher_one() {
        let (mut store, key) = (KeyStore::default(), new_key());
        for (role, then) in
            [(Role::Read, Role::Read), (Role::Full, Role::Full), (Role::Read, Role::Full)]
        {
            add(&mut store, Entry { role, ..entry("a", key.clone(), false) }).unwrap();
            assert_eq!(store.find(&key.id()).unwrap().role, then);
        }
    }

    #[test]
    fn changes_at_the_same_time_lose_nothing() {
        let folder = Folder::new("together");
        let path = KeyStore::path(&folder.0);
        let limits = KeyLimits { of_user: 100, total: 100, legacy: 1, legacy_of_user: 1 };
        std::thread::scope(|scope| {
            for user in 0..8 {
                let (path, limits) = (&path, &limits);
                scope.spawn(move || {
                    for _ in 0..5 {
                        let entry = entry(&format!("u{user}"), new_key(), false);
                        KeyStore::change(path, MAY_BLOCK, |store| store.insert(entry, limits))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(KeyStore::read(&path, MAY_BLOCK).unwrap().0.len(), 40);
    }

    #[test]
    fn number_of_keys_is_limited_and_a_key_has_one_user() {
        let mut store = KeyStore::default();
        let rsa = public(file!("rsa-public.pem"));
        let key = new_key();
        add(&mut store, entry("a", key.clone(), false)).unwrap();
        let taken = add(&mut store, entry("b", key.clone(), false)).unwrap_err();
        assert_eq!(taken, InsertError::Taken("a".into()));
        let renamed = Entry { nickname: "other".into(), ..entry("a", key.clone(), false) };
        add(&mut store, renamed).unwrap();
        assert_eq!(store.len(), 1);
        assert_eq!(store.find(&key.id()).unwrap().nickname, "other");
        assert_eq!(add(&mut store, entry("a", key, true)).unwrap_err(), InsertError::NotLegacy);
        for _ in 0..2 {
            add(&mut store, entry("a", new_key(), false)).unwrap();
        }
        let full = add(&mut store, entry("a", new_key(), false)).unwrap_err();
        assert_eq!(full, InsertError::OfUser(3));
        let legacy = public(file!("qt-client-public.pem"));
        add(&mut store, entry("b", rsa.clone(), true)).unwrap();
        add(&mut store, entry("b", rsa.clone(), true)).unwrap();
        let none = KeyLimits { legacy: 1, ..LIMITS };
        let full = store.insert(entry("b", legacy.clone(), true), &none).unwrap_err();
        assert_eq!(full, InsertError::Legacy(1));
        add(&mut store, entry("b", legacy, true)).unwrap();
        let full = add(&mut store, entry("b", new_key(), false)).unwrap_err();
        assert_eq!(full, InsertError::Total(5));
    }

    #[test]
    fn texts_for_people_are_bounded_and_plain() {
        check_text("it", "Größe @ home").unwrap();
        check_text("it", &"a".repeat(255)).unwrap_err();
        for text in ["a\nb", "\u{1b}[2J", "\u{85}"] {
            check_text("it", text).unwrap_err();
        }
    }

    #[test]
    fn server_key_is_created_once_and_stored() {
        let folder = Folder::new("own");
        let first = OwnKey::Link.ensure(&folder.0, MAY_BLOCK).unwrap();
        assert_eq!(OwnKey::Link.ensure(&folder.0, MAY_BLOCK).unwrap().public(), first.public());
        let path = OwnKey::Link.path(&folder.0);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!first.public().is_rsa());
        assert!(OwnKey::Legacy.ensure(&folder.0, MAY_BLOCK).unwrap().public().is_rsa());
        fs::write(&path, "junk").unwrap();
        let why = OwnKey::Link.ensure(&folder.0, MAY_BLOCK).unwrap_err().to_string();
        assert!(why.contains("link-key.pem"), "{why}");
        assert_eq!(fs::read(&path).unwrap(), b"junk", "it is not replaced");
    }
}
