//! Keys and signatures of OpenSSL, so that the daemon is tested against another program.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Daemon, Directory, Outcome, Peer, Refused, Transport, skip};

/// A private key with its public half, in files of a directory that it owns.
#[derive(Debug)]
pub struct Key {
    directory: Directory,
    is_rsa: bool,
}

/// Runs openssl(1) with input; returns its output.
fn openssl(arguments: &[&str], input: &[u8]) -> Outcome<Vec<u8>> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().ok_or("no standard input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Standard base64 on one line.
pub fn base64(bytes: &[u8]) -> Outcome<String> {
    Ok(String::from_utf8(openssl(&["base64", "-A"], bytes)?)?.trim().to_owned())
}

/// Decrypts a string encrypted like by the original client, with the public key (PEM).
pub fn decrypt(public: &str, encrypted: &[u8]) -> Outcome<String> {
    let directory = Directory::new()?;
    let (key, text) = (directory.join("key"), directory.join("text"));
    fs::write(&key, public)?;
    fs::write(&text, encrypted)?;
    let (key, text) = (key.to_str().ok_or("no UTF-8")?, text.to_str().ok_or("no UTF-8")?);
    let old = ["rsautl", "-verify", "-pkcs", "-pubin", "-inkey", key, "-in", text];
    let new = ["pkeyutl", "-verifyrecover", "-pubin", "-inkey", key, "-in", text];
    Ok(String::from_utf8(openssl(&old, b"").or_else(|_| openssl(&new, b""))?)?)
}

impl Key {
    /// `openssl genpkey`; `None`, with a message, without OpenSSL.
    pub fn ed25519() -> Outcome<Option<Key>> {
        Key::new(&["genpkey", "-algorithm", "ed25519"], false)
    }

    /// `openssl genrsa`.
    pub fn rsa() -> Outcome<Option<Key>> {
        Key::new(&["genrsa", "2048"], true)
    }

    fn new(arguments: &[&str], is_rsa: bool) -> Outcome<Option<Key>> {
        if openssl(&["version"], b"").is_err() {
            skip("keys of another program need openssl");
            return Ok(None);
        }
        let key = Key { directory: Directory::new()?, is_rsa };
        fs::write(key.private(), openssl(arguments, b"")?)?;
        let private = key.private();
        let read = ["pkey", "-in", private.to_str().ok_or("no UTF-8")?, "-pubout"];
        fs::write(key.public(), openssl(&read, b"")?)?;
        Ok(Some(key))
    }

    /// The file with the private key, PEM.
    pub fn private(&self) -> PathBuf {
        self.directory.join("private.pem")
    }

    /// The file with the public key, PEM.
    pub fn public(&self) -> PathBuf {
        self.directory.join("public.pem")
    }

    /// The public key in the form of the original client: its PEM in base64.
    pub fn encoded(&self) -> Outcome<String> {
        base64(&fs::read(self.public())?)
    }

    /// Its id: base64 of the SHA-256 of its SubjectPublicKeyInfo.
    pub fn id(&self) -> Outcome<String> {
        let pem = fs::read(self.public())?;
        let der = openssl(&["pkey", "-pubin", "-outform", "DER"], &pem)?;
        base64(ring::digest::digest(&ring::digest::SHA256, &der).as_ref())
    }

    /// Its checksum: base64 of the MD5 of its PEM.
    pub fn checksum(&self) -> Outcome<String> {
        base64(&openssl(&["dgst", "-md5", "-binary"], &fs::read(self.public())?)?)
    }

    /// Signs any message, base64: Ed25519, or PSS with SHA-256.
    pub fn sign(&self, message: &[u8]) -> Outcome<String> {
        let private = self.private();
        let private = private.to_str().ok_or("no UTF-8")?;
        let file = self.directory.join("message");
        fs::write(&file, message)?;
        let file = file.to_str().ok_or("no UTF-8")?;
        let mut arguments = vec!["pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", file];
        if self.is_rsa {
            arguments.extend(["-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss"]);
            arguments.extend(["-pkeyopt", "rsa_pss_saltlen:digest"]);
        }
        base64(&openssl(&arguments, b"")?)
    }

    /// Signs a string for a purpose and for the certificate with this fingerprint (64 hexadecimal
    /// digits): base64.
    pub fn sign_for(&self, purpose: &str, fingerprint: &str, string: &str) -> Outcome<String> {
        let mut message = format!("sysadm-events-auth-v1\0{purpose}\0").into_bytes();
        for at in (0..fingerprint.len()).step_by(2) {
            message.push(u8::from_str_radix(fingerprint.get(at..at + 2).ok_or("odd")?, 16)?);
        }
        message.extend_from_slice(string.as_bytes());
        self.sign(&message)
    }

    /// Encrypts a string like the original client, base64: PKCS#1 v1.5, type 1, no digest.
    pub fn encrypt(&self, string: &str) -> Outcome<String> {
        let private = self.private();
        let private = private.to_str().ok_or("no UTF-8")?;
        let old = ["rsautl", "-sign", "-pkcs", "-inkey", private];
        // Some versions of the newer command refuse input longer than any digest.
        let new = ["pkeyutl", "-sign", "-inkey", private, "-pkeyopt", "rsa_padding_mode:pkcs1"];
        let encrypted = openssl(&old, string.as_bytes());
        base64(&encrypted.or_else(|_| openssl(&new, string.as_bytes()))?)
    }

    /// The second stage for the certificate of this daemon on this transport.
    pub fn proof(&self, daemon: &Daemon, transport: Transport, string: &str) -> Outcome<Value> {
        let zeros = "0".repeat(64);
        let fingerprint = match transport {
            Transport::Tls | Transport::Tls12 => daemon.fingerprint(),
            Transport::Unix | Transport::Plain => &zeros,
        };
        let signature = self.sign_for("server", fingerprint, string)?;
        Ok(json!({ "key": self.id()?, "signature": signature }))
    }
}

impl Peer {
    /// The first stage of `auth_ssl`: the challenge.
    pub fn challenge(&mut self) -> Outcome<String> {
        let reply = self.request("rpc", "auth_ssl", &json!(""))?;
        Ok(reply["test_string"].as_str().ok_or("no test_string")?.to_owned())
    }

    /// Both stages; returns the token and its lifetime.
    pub fn show_key(&mut self, key: &Key, daemon: &Daemon, over: Transport) -> Outcome<Value> {
        let string = self.challenge()?;
        self.request("rpc", "auth_ssl", &key.proof(daemon, over, &string)?)
    }

    /// Both stages with a key that must be rejected.
    pub fn key_refused(&mut self, key: &Key, daemon: &Daemon, over: Transport) -> Outcome<Refused> {
        let string = self.challenge()?;
        self.refused("rpc", "auth_ssl", &key.proof(daemon, over, &string)?)
    }
}
