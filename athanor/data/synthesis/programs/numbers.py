"""Numbers, loops and conditions."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import program


@program(
    "返回 n 的各位数字之和", "Return the sum of the digits of n.", lambda r, n: (r.randint(10, 10 ** (n // 2 + 1)),)
)
def digit_sum(n: int) -> int:
    total = 0
    while n > 0:
        total += n % 10
        n //= 10
    return total


@program(
    "返回从 1 到 n 中能被 {k} 整除的整数之和",
    "Return the sum of the numbers from 1 to n that {k} divides.",
    lambda r, n: (r.randint(5, 8 * n),),
    order="n",
    grow=lambda n: (n,),
    k=(2, 3, 4, 5, 7),
)
def sum_of_multiples(n: int, *, k: int) -> int:
    total = 0
    for i in range(1, n + 1):
        if i % k == 0:
            total += i
    return total


@program("返回 n 的阶乘", "Return n factorial.", lambda r, n: (r.randint(0, n),), order="n", grow=lambda n: (n,))
def factorial(n: int) -> int:
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


@program("判断 n 是否为质数", "Return whether n is a prime number.", lambda r, n: (r.randint(2, 20 * n),))
def is_prime(n: int) -> bool:
    if n < 2:
        return False
    d = 2
    while d * d <= n:
        if n % d == 0:
            return False
        d += 1
    return True


@program(
    "用辗转相除法返回 a 和 b 的最大公约数",
    "Return the greatest common divisor of a and b by Euclid's algorithm.",
    lambda r, n: (r.randint(1, 20 * n), r.randint(1, 20 * n)),
)
def euclid(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


@program(
    "返回从 n 出发按考拉兹规则（偶数减半，奇数乘 3 加 1）走到 1 的步数",
    "Return the number of Collatz steps (halve if even, else 3n + 1) from n to 1.",
    lambda r, n: (r.randint(2, 10 * n),),
)
def collatz_steps(n: int) -> int:
    count = 0
    while n != 1:
        if n % 2 == 0:
            n //= 2
        else:
            n = 3 * n + 1
        count += 1
    return count


@program(
    "返回不超过 n 的所有质数的列表（埃氏筛）",
    "Return the list of primes up to n (sieve of Eratosthenes).",
    lambda r, n: (r.randint(5, 6 * n),),
)
def sieve(n: int) -> list[int]:
    marks = [True] * (n + 1)
    result = []
    for i in range(2, n + 1):
        if marks[i]:
            result.append(i)
            for j in range(i * i, n + 1, i):
                marks[j] = False
    return result


@program(
    "返回 n 的二进制表示中 1 的个数",
    "Return how many 1 bits the binary form of n has.",
    lambda r, n: (r.randint(1, 4 ** (n // 2 + 1)),),
)
def count_bits(n: int) -> int:
    count = 0
    while n:
        n &= n - 1
        count += 1
    return count


@program(
    "返回把非负整数 n 左移 {k} 位后与原数异或的结果",
    "Return n shifted left by {k} bits, exclusive-or n.",
    lambda r, n: (r.randint(1, 30 * n),),
    k=(1, 2, 3),
)
def shift_xor(n: int, *, k: int) -> int:
    return (n << k) ^ n


@program(
    "把整数 n（n ≥ 0）转换成 {base} 进制的字符串",
    "Return n (n ≥ 0) as a string in base {base}.",
    lambda r, n: (r.randint(0, 60 * n),),
    base=(2, 3, 5, 8),
)
def to_base(n: int, *, base: int) -> str:
    if n == 0:
        return "0"
    text = ""
    while n > 0:
        text = str(n % base) + text
        n //= base
    return text


@program(
    "返回 base 的 exponent 次方除以 {m} 的余数（快速幂）",
    "Return base to the power exponent modulo {m} by fast exponentiation.",
    lambda r, n: (r.randint(2, 20), r.randint(1, 6 * n)),
    order="log n",
    grow=lambda n: (3, 2 ** n.bit_length() - 1),
    m=(7, 13, 97, 101),
)
def power_mod(base: int, exponent: int, *, m: int) -> int:
    result = 1
    base %= m
    while exponent > 0:
        if exponent % 2 == 1:
            result = result * base % m
        base = base * base % m
        exponent //= 2
    return result


@program(
    "判断年份是否为闰年",
    "Return whether a year is a leap year.",
    lambda r, n: (r.choice([r.randint(1600, 2400), 100 * r.randint(16, 24)]),),
)
def leap_year(year: int) -> bool:
    if year % 400 == 0:
        return True
    if year % 100 == 0:
        return False
    return year % 4 == 0


@program(
    "把分数 score 换成等级：{a} 分及以上为 A，{b} 分及以上为 B，其余为 C",
    "Return the grade of a score: A from {a}, B from {b}, else C.",
    lambda r, n: (r.randint(40, 100),),
    a=(85, 88, 90),
    b=(60, 65, 70),
)
def grade(score: int, *, a: int, b: int) -> str:
    if score >= a:
        return "A"
    elif score >= b:
        return "B"
    return "C"


@program(
    "返回 1 到 n 的字符串列表，其中 {a} 的倍数写 Fizz，{b} 的倍数写 Buzz，都是则写 FizzBuzz",
    "Return the numbers 1 to n as strings, with Fizz for multiples of {a}, Buzz for {b}, FizzBuzz for both.",
    lambda r, n: (r.randint(6, 2 * n + 4),),
    a=(2, 3),
    b=(5, 7),
)
def fizz_buzz(n: int, *, a: int, b: int) -> list[str]:
    result = []
    for i in range(1, n + 1):
        text = ""
        if i % a == 0:
            text += "Fizz"
        if i % b == 0:
            text += "Buzz"
        result.append(text or str(i))
    return result


@program(
    "返回和为 n 的正整数对 (a, b)（a ≤ b，且 a 与 b 互质）的个数",
    "Return how many coprime pairs a ≤ b of positive integers have sum n.",
    lambda r, n: (r.randint(4, 6 * n),),
)
def coprime_pairs(n: int) -> int:
    count = 0
    for a in range(1, n // 2 + 1):
        x, y = a, n - a
        while y:
            x, y = y, x % y
        if x == 1:
            count += 1
    return count


@program(
    "返回 x 的整数平方根（二分法）",
    "Return the whole square root of x by bisection.",
    lambda r, n: (r.randint(1, 40 * n),),
)
def integer_sqrt(x: int) -> int:
    low, high = 0, x
    while low < high:
        middle = (low + high + 1) // 2
        if middle * middle <= x:
            low = middle
        else:
            high = middle - 1
    return low


@program(
    "返回各位数字倒过来的整数",
    "Return the number whose digits are those of n reversed.",
    lambda r, n: (r.randint(10, 10 ** (n // 2 + 1)),),
)
def reverse_digits(n: int) -> int:
    result = 0
    while n:
        result = result * 10 + n % 10
        n //= 10
    return result


@program(
    "返回把 n 表示成 i*j（i、j 从 1 到 n 的双重循环）满足 i*j == n 的次数",
    "Return how often i*j == n over a double loop of i and j from 1 to n.",
    lambda r, n: (r.randint(4, 3 * n),),
    order="n^2",
    grow=lambda n: (n,),
)
def divisor_pairs(n: int) -> int:
    count = 0
    for i in range(1, n + 1):
        for j in range(1, n + 1):
            if i * j == n:
                count += 1
    return count
