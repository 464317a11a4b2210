use super::{DType, On, Tensor, constant, list, numbers};
use crate::sum_of_squares;

#[test]
fn the_sum_of_squares_is_that_of_all_numbers_wherever_they_lie() {
    for shape in [[1, 1], [3, 5], [7, 4999], [300, 300]] {
        let values = numbers(1, shape[0] * shape[1], 1.0);
        let exact: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        for dtype in [DType::F32, DType::F64] {
            let tensor: Tensor<2> = constant(&values, shape, On::Flex(dtype));
            for tensor in [tensor.clone(), tensor.clone().inner(), tensor.transpose()] {
                let sum = list(sum_of_squares(tensor))[0];
                // A sum of positive numbers in 32 lanes of at most 512 each: so many roundings, which mostly cancel.
                assert!((sum / exact - 1.0).abs() < 1e-5, "{shape:?} {dtype:?}: {sum}, not {exact}");
            }
        }
    }
}
