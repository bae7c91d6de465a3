//! Numbers, names and commands as people read them. Pure.

use std::path::Path;

/// Bytes with a binary unit: `1.5 GiB`.
#[must_use]
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, "KiB");
    for larger in &UNITS[1..] {
        // 1023.95 would be shown as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// Bytes a second, decimal as links are sold: `512.0 MB/s`.
#[must_use]
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 999_950_000.0 => format!("{:.2} GB/s", r / 1e9),
        r if r >= 999_950.0 => format!("{:.1} MB/s", r / 1e6),
        r if r > 0.0 => format!("{:.1} kB/s", r / 1e3),
        _ => "0 B/s".to_owned(),
    }
}

/// A part of a whole, never rounded up to 100 %.
#[must_use]
pub(crate) fn percent(done: u64, total: u64) -> String {
    if total == 0 {
        return "- %".to_owned();
    }
    let tenths = u128::from(done.min(total)) * 1000 / u128::from(total);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Seconds as the two largest units: `3 min 5 s`.
#[must_use]
pub(crate) fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A count with its noun, whose plural takes an s.
#[must_use]
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A text with what would move the cursor, colour the screen or turn the direction of writing made visible: names and
/// agents come from others.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    let visible = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns { c.escape_unicode().to_string() } else { c.to_string() }
    };
    text.chars().map(visible).collect()
}

/// The command that gets a file on another machine, ready for a POSIX shell.
#[must_use]
pub(crate) fn get_command(cid: &str, addresses: &[String], path: &Path) -> String {
    let peers: String = addresses.iter().map(|address| format!(" --peer {address}")).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("bitshoal get {cid}{peers} -o {}", shell_word(&name))
}

/// One word for a POSIX shell that no program takes for a flag.
fn shell_word(name: &str) -> String {
    let name = if name.starts_with('-') { format!("./{name}") } else { name.to_owned() };
    let plain = |c: char| c.is_alphanumeric() || "._-/+,:@%".contains(c);
    if !name.is_empty() && name.chars().all(plain) { name } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

/// Addresses that another machine can use: without loopback and link-local ones, unless there are no others.
#[must_use]
pub(crate) fn reachable(addresses: &[String]) -> Vec<String> {
    let local = |address: &&String| {
        ["/ip4/127.", "/ip6/::1/", "/ip4/169.254.", "/ip6/fe80:"].iter().any(|prefix| address.starts_with(prefix))
    };
    let far: Vec<String> = addresses.iter().filter(|address| !local(address)).cloned().collect();
    if far.is_empty() { addresses.to_vec() } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(100 << 30), "100.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(rate(512_000_000.0), "512.0 MB/s");
        assert_eq!(rate(1_250_000_000.0), "1.25 GB/s");
        assert_eq!(rate(999.0), "1.0 kB/s");
        assert_eq!(rate(0.0), "0 B/s");
        assert_eq!(percent(999_999, 1_000_000), "99.9 %");
        assert_eq!(percent(1, 1), "100.0 %");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99.9 %");
        assert_eq!(percent(0, 0), "- %");
        assert_eq!(time(59), "59 s");
        assert_eq!(time(185), "3 min 5 s");
        assert_eq!(time(7260), "2 h 1 min");
        assert_eq!(time(90_000), "1 d 1 h");
        assert_eq!((count(1, "peer"), count(0, "peer")), ("1 peer".into(), "0 peers".into()));
    }

    #[test]
    fn foreign_texts_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(printable("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
        assert_eq!(printable("größer"), "größer");
    }

    #[test]
    fn the_line_for_the_other_machine_survives_its_shell() {
        let addresses = ["/ip4/192.0.2.1/tcp/4001/p2p/X".to_owned(), "/ip6/2001:db8::1/tcp/4001/p2p/X".to_owned()];
        assert_eq!(
            get_command("bafk", &addresses, Path::new("/data/model-7.bin")),
            "bitshoal get bafk --peer /ip4/192.0.2.1/tcp/4001/p2p/X --peer /ip6/2001:db8::1/tcp/4001/p2p/X -o model-7.bin"
        );
        assert_eq!(get_command("b", &[], Path::new("/d/it's $1")), r"bitshoal get b -o 'it'\''s $1'");
        assert_eq!(get_command("b", &[], Path::new("/d/-rf")), "bitshoal get b -o ./-rf");
    }

    #[test]
    fn loopback_is_offered_only_when_there_is_nothing_else() {
        let loopback = "/ip4/127.0.0.1/tcp/1/p2p/X".to_owned();
        let far = "/ip4/192.0.2.1/tcp/1/p2p/X".to_owned();
        assert_eq!(reachable(&[loopback.clone(), far.clone()]), [far]);
        assert_eq!(reachable(std::slice::from_ref(&loopback)), [loopback]);
    }
}
