//! Random identities in Kafka's form.

use corelog_runtime::rand;
use uuid::Uuid;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A random version 4 UUID whose text does not begin with '-', as tools would take it for an option.
pub(super) fn random() -> Uuid {
    loop {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes);
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        if !base64url(uuid).starts_with('-') {
            return uuid;
        }
    }
}

/// A UUID as Kafka writes it: 22 characters of base64url without padding.
pub fn base64url(uuid: Uuid) -> String {
    let number = uuid.as_u128();
    // 128 bits are 21 characters of 6 bits, and 2 bits that the last character has at its top.
    (0..22_u32)
        .map(|place| {
            let shifted = if place < 21 { number >> (122 - 6 * place) } else { number << 4 };
            let digit = usize::try_from(shifted & 63).expect("6 bits fit");
            char::from(BASE64URL[digit])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_that_of_kafka() {
        let text = |number: u128| base64url(Uuid::from_u128(number));
        assert_eq!(text(0), "AAAAAAAAAAAAAAAAAAAAAA", "Kafka's ZERO_UUID");
        assert_eq!(text(1), "AAAAAAAAAAAAAAAAAAAAAQ", "Kafka's METADATA_TOPIC_ID");
        assert_eq!(text(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!(text(u128::MAX), "_____________________w");
    }
}
