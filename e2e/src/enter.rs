//! A shell, or one command, in a host of a scene that was left running.
//!
//! A guest is reached over one of its serial lines, which is a pseudo terminal here (`guest/enter-line` is the
//! other end and describes the protocol); the namespaces of a native scene are simply entered.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::{processes, quote};
use crate::{demo, wait};

/// The byte that stands around the exit status at the end of a session.
const MARK: u8 = 0x1e;
const LINES: u32 = 3;

/// Opens a shell in `host` (`guest` = outside all hosts), or runs `words` there; returns the exit status.
///
/// # Errors
/// When no scene is running or all lines are in use.
pub fn enter(host: &str, words: &[String]) -> Result<i32> {
    let (dir, pid) = demo::kept()?;
    let engine = fs::read_to_string(dir.join(".guest/engine")).unwrap_or_default();
    if engine.trim() == "native" {
        return enter_namespaces(pid, host, words);
    }
    enter_line(&dir.join(".guest"), host, words)
}

/// `pid` is `unshare`; its child lives in the namespaces.
fn enter_namespaces(pid: u32, host: &str, words: &[String]) -> Result<i32> {
    let child = *processes::tree(pid).get(1).context("the scene has no process")?;
    let mut command = Command::new("nsenter");
    command.args(["-t", &child.to_string(), "-n", "-m", "-u", "-i", "-p"]);
    if host != "guest" {
        command.args(["ip", "netns", "exec", host]);
    }
    if words.is_empty() {
        command.args(["bash", "-i"])
    } else {
        command.args(words)
    };
    Ok(command.status()?.code().unwrap_or(1))
}

fn enter_line(guest: &Path, host: &str, words: &[String]) -> Result<i32> {
    let (_lock, line) = free_line(guest)?;
    stty(&line, &["raw", "-echo"])?;
    let mut to_guest = File::options().read(true).write(true).open(&line)?;
    let mut from_guest = to_guest.try_clone()?;
    let interactive = words.is_empty();
    let terminal = interactive.then(Terminal::take).flatten();
    let (rows, columns) = terminal.as_ref().map_or((24, 80), |t| t.size);
    let command = if interactive {
        "-".to_owned()
    } else {
        let quoted: Vec<String> = words.iter().map(|w| quote(w)).collect();
        base64(quoted.join(" ").as_bytes())
    };
    writeln!(to_guest, "{host} {rows} {columns} {command}")?;
    if interactive {
        // Ends with the process: reading a terminal cannot be interrupted.
        std::thread::spawn(move || forward_input(to_guest));
    }
    let status = copy_until_mark(&mut from_guest, &mut io::stdout())?;
    drop(terminal);
    Ok(status)
}

/// The first line that nobody uses; they are announced by the guest after its boot.
fn free_line(guest: &Path) -> Result<(File, String)> {
    wait::until(Duration::from_secs(10), "a free line into the guest", || {
        for n in 1..=LINES {
            let Ok(line) = fs::read_to_string(guest.join(format!("line{n}"))) else { continue };
            let lock = File::create(guest.join(format!("line{n}.lock")))?;
            if lock.try_lock().is_ok() && !line.trim().is_empty() {
                return Ok((lock, line.trim().to_owned()));
            }
        }
        bail!("all {LINES} are in use or the guest has not announced them")
    })
}

fn forward_input(mut to_guest: File) {
    let mut buffer = [0; 1024];
    loop {
        match io::stdin().read(&mut buffer) {
            // End of input is Ctrl-D on a terminal.
            Ok(0) => break drop(to_guest.write_all(&[4])),
            Ok(n) => {
                if to_guest.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
}

/// Copies until `MARK status MARK`.
fn copy_until_mark(from: &mut impl io::Read, to: &mut impl io::Write) -> Result<i32> {
    let mut status: Option<Vec<u8>> = None;
    let mut buffer = [0; 1024];
    loop {
        let n = from.read(&mut buffer).context("the line into the guest")?;
        if n == 0 {
            bail!("the guest has ended");
        }
        let mut plain = Vec::new();
        for &byte in &buffer[..n] {
            match &mut status {
                None if byte == MARK => status = Some(Vec::new()),
                None => plain.push(byte),
                Some(digits) if byte == MARK => {
                    to.write_all(&plain)?;
                    to.flush()?;
                    return String::from_utf8_lossy(digits).parse().context("status of the session");
                }
                Some(digits) => digits.push(byte),
            }
        }
        to.write_all(&plain)?;
        to.flush()?;
    }
}

/// Our own terminal in raw mode; put back when dropped.
struct Terminal {
    saved: String,
    size: (u16, u16),
}

impl Terminal {
    fn take() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let ask = |what: &str| -> Option<String> {
            let output = Command::new("stty").arg(what).stdin(Stdio::inherit()).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let saved = ask("-g")?;
        let size = ask("size").and_then(|s| {
            let (rows, columns) = s.split_once(' ')?;
            Some((rows.parse().ok()?, columns.parse().ok()?)).filter(|&size| size != (0, 0))
        });
        Command::new("stty").args(["raw", "-echo"]).stdin(Stdio::inherit()).status().ok()?;
        Some(Self { saved, size: size.unwrap_or((24, 80)) })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("stty").arg(&self.saved).stdin(Stdio::inherit()).status();
    }
}

fn stty(line: &str, words: &[&str]) -> Result<()> {
    let status = Command::new("stty").args(["-F", line]).args(words).status()?;
    if status.success() { Ok(()) } else { bail!("stty -F {line}: {status}") }
}

/// RFC 4648, with padding: the one place that needs it does not need a library.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = 0_u32;
        for i in 0..3 {
            word = word << 8 | u32::from(chunk.get(i).copied().unwrap_or(0));
        }
        for i in 0..4 {
            let digit = (word >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= chunk.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_the_vectors_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn output_ends_at_the_mark_and_the_status_is_read() {
        let mut out = Vec::new();
        let status = copy_until_mark(&mut &b"hello\n\x1e17\x1e\n"[..], &mut out).unwrap();
        assert_eq!((status, out.as_slice()), (17, &b"hello\n"[..]));
        assert!(copy_until_mark(&mut &b"cut off"[..], &mut Vec::new()).is_err());
    }
}
