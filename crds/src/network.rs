//! The address plan of a region: which /16 each reef and which /20 each subnet gets.
//!
//! Reefs share no network, yet their ranges are kept apart, so that two reefs can be peered while an
//! instance moves between them.

use ipnet::Ipv4Net;

/// Service addresses of every reef's cluster: the same everywhere, never routed between reefs.
pub const SERVICE_CIDR: &str = "172.16.0.0/16";

/// Pod addresses of every reef's cluster (overlay): the same everywhere, never routed between reefs.
pub const POD_CIDR: &str = "100.64.0.0/10";

/// Ranges that an address space must not touch: the two above, and those that Azure refuses for a virtual
/// network (loopback, link-local, its own virtual address, multicast and broadcast).
const RESERVED: [&str; 6] =
    [SERVICE_CIDR, POD_CIDR, "127.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "224.0.0.0/3"];

/// How a region's address space is cut into reefs and subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPlan {
    space: Ipv4Net,
    reef_prefix: u8,
    subnet_prefix: u8,
}

/// Why an address plan is impossible. The texts name the field of the Region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressPlanError {
    /// Not an IPv4 network.
    #[error(
        "spec.network.addressSpace {0:?} must be an IPv4 network such as 10.0.0.0/8, with no host bits set"
    )]
    NotANetwork(String),
    /// Overlaps a range that every cluster uses itself.
    #[error("spec.network.addressSpace {0} must not overlap {1}, which the clusters or Azure use themselves")]
    Overlaps(Ipv4Net, &'static str),
    /// Prefix lengths out of order.
    #[error(
        "spec.network: addressSpace /{space}, reefPrefixLength {reef} and subnetPrefixLength {subnet} must grow in this order (the first two may be equal)"
    )]
    PrefixOrder {
        /// Prefix length of the address space.
        space: u8,
        /// Prefix length of a reef.
        reef: u8,
        /// Prefix length of a subnet.
        subnet: u8,
    },
}

impl AddressPlan {
    /// Checks and makes a plan. `address_space` is CIDR notation; the lengths are bits.
    pub fn new(address_space: &str, reef_prefix: u8, subnet_prefix: u8) -> Result<Self, AddressPlanError> {
        let space: Ipv4Net = address_space
            .parse()
            .ok()
            .filter(|net: &Ipv4Net| net.network() == net.addr())
            .ok_or_else(|| AddressPlanError::NotANetwork(address_space.to_owned()))?;
        for reserved in RESERVED {
            let overlaps =
                reserved.parse::<Ipv4Net>().is_ok_and(|r| r.contains(&space) || space.contains(&r));
            if overlaps {
                return Err(AddressPlanError::Overlaps(space, reserved));
            }
        }
        if space.prefix_len() > reef_prefix || reef_prefix >= subnet_prefix || subnet_prefix > 29 {
            return Err(AddressPlanError::PrefixOrder {
                space: space.prefix_len(),
                reef: reef_prefix,
                subnet: subnet_prefix,
            });
        }
        Ok(Self { space, reef_prefix, subnet_prefix })
    }

    /// How many reefs fit.
    pub fn reefs(&self) -> u32 {
        1 << (self.reef_prefix - self.space.prefix_len())
    }

    /// The range of the reef with this number, counted from 0; none past the end of the address space.
    pub fn reef(&self, number: u32) -> Option<Ipv4Net> {
        if number >= self.reefs() {
            return None;
        }
        let base = u32::from(self.space.network());
        let size = 32 - u32::from(self.reef_prefix);
        let at = number.checked_shl(size).and_then(|offset| base.checked_add(offset))?;
        Ipv4Net::new(at.into(), self.reef_prefix).ok()
    }

    /// The subnet with this number of a reef's range, counted from 0.
    pub fn subnet(&self, reef: Ipv4Net, number: u32) -> Option<Ipv4Net> {
        let mut subnets = reef.subnets(self.subnet_prefix).ok()?;
        subnets.nth(usize::try_from(number).ok()?)
    }

    /// Whether a range is that of a reef.
    pub fn has(&self, range: Ipv4Net) -> bool {
        range.prefix_len() == self.reef_prefix
            && range.network() == range.addr()
            && self.space.contains(&range)
    }

    /// How many subnets fit into a reef.
    pub fn subnets_per_reef(&self) -> u32 {
        1 << (self.subnet_prefix - self.reef_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_defaults_hold_256_reefs_of_16_subnets() {
        let plan = AddressPlan::new("10.0.0.0/8", 16, 20).unwrap();
        assert_eq!((plan.reefs(), plan.subnets_per_reef()), (256, 16));
    }

    #[test]
    fn reefs_and_subnets_are_counted_from_the_start_of_the_space() {
        let plan = AddressPlan::new("10.0.0.0/8", 16, 20).unwrap();
        let text = |n| plan.reef(n).map(|net| net.to_string());
        assert_eq!(text(0).as_deref(), Some("10.0.0.0/16"));
        assert_eq!(text(255).as_deref(), Some("10.255.0.0/16"));
        assert_eq!(text(256), None);
        let third = plan.reef(3).unwrap();
        assert_eq!(plan.subnet(third, 1).unwrap().to_string(), "10.3.16.0/20");
        assert_eq!(plan.subnet(third, 16), None);
        assert!(
            plan.has(third)
                && !plan.has("11.0.0.0/16".parse().unwrap())
                && !plan.has("10.0.0.0/17".parse().unwrap())
        );
    }

    #[test]
    fn refusals_name_the_field_and_the_value() {
        for (space, reef, subnet, expect) in [
            ("10.0.0.1/8", 16, 20, "\"10.0.0.1/8\" must be an IPv4 network"),
            ("fd00::/8", 16, 20, "\"fd00::/8\" must be an IPv4 network"),
            ("172.16.0.0/12", 16, 20, "must not overlap 172.16.0.0/16"),
            ("100.64.0.0/16", 16, 20, "must not overlap 100.64.0.0/10"),
            ("127.0.0.0/16", 16, 20, "must not overlap 127.0.0.0/8"),
            ("168.0.0.0/8", 16, 20, "must not overlap 168.63.129.16/32"),
            ("224.0.0.0/8", 16, 20, "must not overlap 224.0.0.0/3"),
            ("0.0.0.0/0", 16, 20, "must not overlap 172.16.0.0/16"),
            ("10.0.0.0/16", 12, 20, "must grow in this order"),
            ("10.0.0.0/8", 20, 20, "must grow in this order"),
            ("10.0.0.0/8", 28, 30, "must grow in this order"),
        ] {
            let error = AddressPlan::new(space, reef, subnet).unwrap_err().to_string();
            assert!(error.contains("spec.network") && error.contains(expect), "{space}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_counts_fill_the_space(space in ".{0,20}|10\\.[0-9]{1,3}\\.0\\.0/[0-9]{1,2}", reef in 0u8..40, subnet in 0u8..40) {
            if let Ok(plan) = AddressPlan::new(&space, reef, subnet) {
                let addresses = (u64::from(plan.reefs()) * u64::from(plan.subnets_per_reef())) << (32 - subnet);
                let last = plan.reef(plan.reefs() - 1).unwrap();
                prop_assert!(plan.has(last) && plan.subnet(last, plan.subnets_per_reef() - 1).is_some());
                prop_assert_eq!(plan.reef(plan.reefs()), None);
                prop_assert_eq!(addresses, 1u64 << (32 - plan.space.prefix_len()));
            }
        }
    }
}
