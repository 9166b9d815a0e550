//! The engine, a packet at a time: from the decoder through the engine to what it sends and wants of the kernel, against
//! engines that have been through a history already. A thousand times as many executions as whole histories allow.

use std::cell::RefCell;
use std::panic;

use crate::history::{Shell, step};

/// Packets that one engine is given before another one takes its place.
const USES: usize = 64;
/// Bytes before the packet: which engine, which operation, from whom, how much time passes.
pub(crate) const HEAD: usize = 4;
/// From here on the fourth byte lets time pass.
const WAITS: u8 = 0xe0;

thread_local! {
    static WARM: RefCell<Warm> = RefCell::new(Warm::new());
    /// What the engine that is at work has been given, its history first: what a failure is replayed with.
    static GIVEN: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Engines in use, and how each got there.
struct Warm {
    histories: Vec<Vec<u8>>,
    shells: Vec<Option<Used>>,
}

struct Used {
    shell: Shell,
    given: Vec<Vec<u8>>,
}

impl Warm {
    fn new() -> Self {
        tell_replay();
        let histories = crate::seeds::histories();
        let shells = histories.iter().map(|_| None).collect();
        Self { histories, shells }
    }
}

/// Before the hook that is there: libFuzzer's ends the process.
fn tell_replay() {
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let given = GIVEN.with(|given| given.try_borrow().map(|given| given.concat()).unwrap_or_default());
        if !given.is_empty() {
            eprintln!("input of the target `history` that replays it, in hex: {}", hex(&given));
        }
        next(info);
    }));
}

/// Gives an engine one packet, answer or hairpin.
///
/// # Panics
/// As [`crate::history`]; the history that replays it is printed before.
pub fn engine(bytes: &[u8]) {
    let Some(([which, operation, from, wait], rest)) = bytes.split_first_chunk::<HEAD>() else { return };
    let steps = steps(*operation, *from, *wait, rest);
    WARM.with_borrow_mut(|warm| {
        let which = usize::from(*which) % warm.histories.len();
        let (Some(history), Some(slot)) = (warm.histories.get(which), warm.shells.get_mut(which)) else {
            return;
        };
        let mut used = match slot.take() {
            Some(used) if used.given.len() <= USES => used,
            _ => match Shell::after(history) {
                Some(shell) => Used { shell, given: vec![history.clone()] },
                None => return,
            },
        };
        used.given.push(steps);
        GIVEN.set(std::mem::take(&mut used.given));
        GIVEN.with_borrow(|given| used.shell.play(given.last().map_or(&[], Vec::as_slice)));
        used.given = GIVEN.take();
        *slot = Some(used);
    });
}

/// The same as steps of a history.
fn steps(operation: u8, from: u8, wait: u8, rest: &[u8]) -> Vec<u8> {
    let mut steps = Vec::with_capacity(rest.len() + 8);
    match operation % 4 {
        0 | 1 => {
            let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
            steps.extend_from_slice(&[step::PACKET, from]);
            steps.extend_from_slice(&length.to_be_bytes());
            steps.extend(rest.iter().take(length.into()));
        }
        2 => {
            let patches = rest.len().min(14) / 2;
            steps.extend_from_slice(&[step::ANSWER, from, patches as u8]);
            steps.extend(rest.iter().take(patches * 2));
        }
        _ => {
            let length = u8::try_from(rest.len()).unwrap_or(u8::MAX);
            steps.extend_from_slice(&[step::HAIRPIN, length]);
            steps.extend(rest.iter().take(length.into()));
        }
    }
    if wait >= WAITS {
        // 10 ms to 5 s.
        let tens = 1_u16 << (wait % 10);
        steps.push(step::WAIT);
        steps.extend_from_slice(&tens.to_be_bytes());
    }
    steps
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
