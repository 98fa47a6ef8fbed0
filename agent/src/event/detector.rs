//! What texts may hold that no label says, by the names that the configuration has for it.

use serde::Serialize;

use super::origin::named;

named! {
    /// Found by its form, and its checksum where it has one.
    #[derive(Hash)]
    Detector {
        /// Numbers of payment cards, by Luhn's checksum.
        Card = "card",
        /// By their checksum, whichever country they are of.
        Iban = "iban",
        Email = "email",
        /// With the country's code, or as North America writes them.
        Phone = "phone",
        /// Of Brazil, France, Germany, Italy, Poland and Spain, each by its checksum.
        NationalId = "national-id",
        /// Private keys, and tokens that begin as those of well-known services do.
        Secret = "secret",
    }
}
