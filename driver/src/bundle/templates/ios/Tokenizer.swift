// Written by snapc. Byte-level pairs as CLIP's tokenizer has them, read from tokenizer.json.
import Foundation

/// What of tokenizer.json is not its vocabulary.
struct TokenizerSettings {
    /// Tokens of a text, padded.
    let tokens: Int
    /// Ids before and behind each text.
    let before: [Int32]
    let after: [Int32]
    let padding: Int32
    /// The id of what is not in the vocabulary; none leaves it out.
    let unknown: Int32?
    /// What ends the last symbol of a word.
    let suffix: String
    /// Whether characters are composed (NFC), and put into lower case.
    let composes: Bool
    let lowercases: Bool
    /// Tokens that stand for themselves wherever a text has them.
    let added: [(text: String, id: Int32)]
}

/// Prompts to ids.
struct Tokenizer {
    private struct Pair: Hashable {
        let left: Int32
        let right: Int32
    }

    private let settings: TokenizerSettings
    private var vocabulary: [String: Int32] = [:]
    /// Of each pair that is joined, when, and what it becomes.
    private var merges: [Pair: (rank: Int, id: Int32)] = [:]
    /// How each byte is written in the vocabulary.
    private let bytes: [Character]

    init(file: URL, settings: TokenizerSettings) throws {
        self.settings = settings
        bytes = Tokenizer.byteCharacters()
        guard let data = try? Data(contentsOf: file) else { throw __NAME__Error.missing(file.lastPathComponent) }
        guard let json = try? JSONSerialization.jsonObject(with: data) as? [String: Any],
            let model = json["model"] as? [String: Any],
            let vocab = model["vocab"] as? [String: Any],
            let pairs = model["merges"] as? [Any]
        else { throw __NAME__Error.damaged(file.lastPathComponent) }
        for (token, id) in vocab {
            guard let id = (id as? NSNumber)?.int32Value else { throw __NAME__Error.damaged("vocab: \(token)") }
            vocabulary[token] = id
        }
        for (rank, pair) in pairs.enumerated() {
            let parts = (pair as? [String]) ?? (pair as? String)?.split(separator: " ").map(String.init) ?? []
            guard parts.count == 2, let left = vocabulary[parts[0]], let right = vocabulary[parts[1]],
                let id = vocabulary[parts[0] + parts[1]]
            else { throw __NAME__Error.damaged("merges: \(rank)") }
            merges[Pair(left: left, right: right)] = (rank, id)
        }
    }

    /// Ids, cut and padded, and a mask: 1 for a real token.
    func encode(_ prompt: String) -> (ids: [Int32], mask: [Float]) {
        let room = settings.tokens - settings.before.count - settings.after.count
        let ids = settings.before + Array(pieces(prompt).prefix(room)) + settings.after
        let spare = settings.tokens - ids.count
        let mask = [Float](repeating: 1, count: ids.count) + [Float](repeating: 0, count: spare)
        return (ids + [Int32](repeating: settings.padding, count: spare), mask)
    }

    /// The ids of a text: added tokens for themselves, and what is between them word by word.
    private func pieces(_ prompt: String) -> [Int32] {
        // Scalars, not characters: a character may have a token's end and an accent on it.
        let scalars = Array(prompt.unicodeScalars)
        let added = settings.added.map { (text: Array($0.text.unicodeScalars), id: $0.id) }
        var ids: [Int32] = []
        var (start, place) = (0, 0)
        while place < scalars.count {
            let found = added.filter { scalars[place...].starts(with: $0.text) }
            if let longest = found.max(by: { $0.text.count < $1.text.count }) {
                ids += words(scalars[start..<place]) + [longest.id]
                place += longest.text.count
                start = place
            } else {
                place += 1
            }
        }
        return ids + words(scalars[start...])
    }

    private func words(_ scalars: ArraySlice<Unicode.Scalar>) -> [Int32] {
        var text = String(String.UnicodeScalarView(scalars))
        if settings.composes { text = text.precomposedStringWithCanonicalMapping }
        var normal = Array(text.unicodeScalars)
        if settings.lowercases { normal = normal.flatMap { Array($0.properties.lowercaseMapping.unicodeScalars) } }
        var ids: [Int32] = []
        var place = 0
        while place < normal.count {
            let length = Tokenizer.wordLength(normal[place...])
            if length > 0 { ids += joined(String(String.UnicodeScalarView(normal[place..<(place + length)]))) }
            place += max(length, 1)
        }
        return ids
    }

    private enum Kind {
        case space
        case letter
        case number
        case other
    }

    private static func kind(_ scalar: Unicode.Scalar) -> Kind {
        if scalar.properties.isWhitespace { return .space }
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return .letter
        case .decimalNumber, .letterNumber, .otherNumber: return .number
        default: return .other
        }
    }

    /// How many scalars the word has that begins here: `'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`; 0 for a space.
    private static func wordLength(_ text: ArraySlice<Unicode.Scalar>) -> Int {
        for ending in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] where text.starts(with: ending.unicodeScalars) {
            return ending.unicodeScalars.count
        }
        let first = kind(text[text.startIndex])
        switch first {
        case .space: return 0
        case .number: return 1
        case .letter, .other: return text.prefix { kind($0) == first }.count
        }
    }

    /// The ids of a word: its bytes, joined pair by pair, always the pair that was learned first.
    private func joined(_ word: String) -> [Int32] {
        let symbols = word.utf8.map { String(bytes[Int($0)]) }
        var ids: [Int32] = symbols.enumerated().compactMap { index, symbol in
            vocabulary[index + 1 == symbols.count ? symbol + settings.suffix : symbol] ?? settings.unknown
        }
        while ids.count > 1 {
            var best: (rank: Int, id: Int32, place: Int)?
            for place in 0..<(ids.count - 1) {
                guard let merge = merges[Pair(left: ids[place], right: ids[place + 1])] else { continue }
                if merge.rank < best?.rank ?? Int.max { best = (merge.rank, merge.id, place) }
            }
            guard let best else { break }
            ids.replaceSubrange(best.place...(best.place + 1), with: [best.id])
        }
        return ids
    }

    /// Printing bytes stand for themselves, the others for what comes behind 255.
    private static func byteCharacters() -> [Character] {
        var next: UInt32 = 256
        return (UInt32(0)...255).map { byte in
            let printing = (33...126).contains(byte) || (161...172).contains(byte) || (174...255).contains(byte)
            let code = printing ? byte : next
            if !printing { next += 1 }
            return Unicode.Scalar(code).map { Character($0) } ?? " "
        }
    }
}
