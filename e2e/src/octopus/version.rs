//! Releases of Octopus Server: `2026.2.1234`.

use std::{fmt, str::FromStr};

/// A release; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    year: u16,
    release: u16,
    build: u32,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str, least: usize| {
            let digits = part.len() >= least && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten()
        };
        let parts: Vec<_> = text.split('.').collect();
        let parsed = match parts[..] {
            [year, release, build] => (number(year, 4), number(release, 1), number(build, 1)),
            _ => (None, None, None),
        };
        match parsed {
            (Some(year @ 2000..=9999), Some(release @ 0..=99), Some(build)) => {
                let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                Ok(Self { year: narrow(year), release: narrow(release), build })
            }
            _ => Err(format!("\"{text}\" is no release of Octopus Server such as 2026.2.1234")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.year, self.release, self.build)
    }
}

/// The release that an image reference names by its tag.
pub(super) fn of_image(reference: &str) -> Result<Version, String> {
    let name = reference.split('@').next().unwrap_or(reference);
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag.parse(),
        None => Err(format!("the image {reference} has no tag that names the release")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_release() {
        let of = |reference: &str| of_image(reference).map(|v| v.to_string());
        assert_eq!(of("octopusdeploy/octopusdeploy:2026.2.1234").unwrap(), "2026.2.1234");
        assert_eq!(of("reg:5000/octopusdeploy:2026.10.7@sha256:00").unwrap(), "2026.10.7");
        for bad in [
            "octopusdeploy",
            "reg:5000/octopusdeploy",
            "x:latest",
            "x:2026.2",
            "x:2026.2.1-hardened",
            "x:26.2.1",
            "x:2026.2.+1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn releases_are_ordered_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("2026.2.999") < version("2026.2.1000"));
        assert!(version("2026.9.1") < version("2026.10.0"));
        assert!(version("2025.4.9999") < version("2026.1.1"));
    }
}
