// What of Core ML the Swift of bundles names, for systems that have none: it computes nothing.
import Foundation

public protocol MLShapedArrayScalar {}
extension Float: MLShapedArrayScalar {}
extension Int32: MLShapedArrayScalar {}

public struct MLShapedArray<Scalar: MLShapedArrayScalar> {
    public var scalars: [Scalar]
    public var shape: [Int]

    public init<S: Sequence>(scalars: S, shape: [Int]) where S.Element == Scalar {
        self.scalars = Array(scalars)
        self.shape = shape
    }
}

open class MLFeatureValue: NSObject {
    private let array: Any

    public init<Scalar: MLShapedArrayScalar>(shapedArray: MLShapedArray<Scalar>) { array = shapedArray }

    public func shapedArrayValue<Scalar: MLShapedArrayScalar>(of type: Scalar.Type) -> MLShapedArray<Scalar>? {
        array as? MLShapedArray<Scalar>
    }
}

public protocol MLFeatureProvider {
    func featureValue(for name: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    private let values: [String: Any]

    public init(dictionary: [String: Any]) throws { values = dictionary }

    public func featureValue(for name: String) -> MLFeatureValue? { values[name] as? MLFeatureValue }
}

open class MLModelConfiguration: NSObject {}

open class MLModel: NSObject {
    public class func compileModel(at url: URL) async throws -> URL { url }

    public class func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLModel {
        MLModel()
    }

    public func prediction(from input: MLFeatureProvider) throws -> MLFeatureProvider { input }
}
