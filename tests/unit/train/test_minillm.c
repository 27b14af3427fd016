/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradient against the exact divergence, by going through all answers; and what each of the
 * three measures is for, on language models that are tables of logits by the last token.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/train/minillm.h"

#include <math.h>
#include <string.h>

enum {
    VOCAB = 12,
    LENGTH_MAX = 40,
    SMALL = 4, /* tokens and length of the models whose answers are all gone through */
    ANSWER = 3
};

/* Logits of the next token by the last; answers begin after token 0 and end with the last one. */
typedef struct table {
    float row[VOCAB][VOCAB];
} table;

static double uniform(uint64_t *rng)
{
    return (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
}

static double log_probability(const float *row, size_t n, size_t id)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)row[i]);
    }
    return (double)row[id] - log(sum);
}

static void randomise(table *t, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < VOCAB; i++) {
        for (size_t j = 0; j < VOCAB; j++) {
            t->row[i][j] = (float)(4 * uniform(&seed) - 2);
        }
    }
}

/* --- against the exact divergence ------------------------------------------------------------ */

/* Answers of ANSWER tokens over SMALL, numbered. */
static void answer_at(size_t number, int32_t *ids)
{
    for (size_t t = 0; t < ANSWER; t++) {
        ids[t] = (int32_t)(number % SMALL);
        number /= SMALL;
    }
}

static double log_of_answer(const table *t, const int32_t *ids)
{
    double sum = 0;
    for (size_t i = 0; i < ANSWER; i++) {
        sum += log_probability(t->row[i ? ids[i - 1] : 0], SMALL, (size_t)ids[i]);
    }
    return sum;
}

static double exact_divergence(const table *student, const table *teacher)
{
    double kl = 0;
    for (size_t k = 0; k < SMALL * SMALL * SMALL; k++) {
        int32_t ids[ANSWER];
        answer_at(k, ids);
        double log_q = log_of_answer(student, ids);
        kl += exp(log_q) * (log_q - log_of_answer(teacher, ids));
    }
    return kl;
}

/* Adds the gradient of one answer times share to that of the table. */
static double add_answer(const shoal_minillm *s, const table *student, const table *teacher,
                         const int32_t *ids, double share, double gradient[SMALL][SMALL])
{
    float logits[ANSWER * SMALL];
    float theirs[ANSWER * SMALL];
    double scratch[2 * ANSWER];
    for (size_t t = 0; t < ANSWER; t++) {
        memcpy(logits + t * SMALL, student->row[t ? ids[t - 1] : 0], SMALL * sizeof(float));
        memcpy(theirs + t * SMALL, teacher->row[t ? ids[t - 1] : 0], SMALL * sizeof(float));
    }
    double loss = shoal_minillm_loss(s, ANSWER, SMALL, ids, theirs, logits, scratch);
    for (size_t t = 0; t < ANSWER; t++) {
        for (size_t j = 0; j < SMALL; j++) {
            gradient[t ? ids[t - 1] : 0][j] += share * (double)logits[t * SMALL + j];
        }
    }
    return loss;
}

static void test_mean_gradient_is_that_of_the_divergence_of_answers(void **state)
{
    (void)state;
    table student;
    table teacher;
    randomise(&student, 1);
    randomise(&teacher, 2);
    for (int single = 0; single < 2; single++) {
        const shoal_minillm s = {.single_step = single};
        double gradient[SMALL][SMALL] = {{0}};
        double loss = 0;
        for (size_t k = 0; k < SMALL * SMALL * SMALL; k++) {
            int32_t ids[ANSWER];
            answer_at(k, ids);
            double share = exp(log_of_answer(&student, ids));
            loss += share * add_answer(&s, &student, &teacher, ids, share, gradient);
        }
        assert_true(fabs(loss - exact_divergence(&student, &teacher)) < 1e-5);
        for (size_t i = 0; i < SMALL; i++) {
            for (size_t j = 0; j < SMALL; j++) {
                const float step = 0x1p-8F;
                table moved = student;
                moved.row[i][j] = student.row[i][j] + step;
                double up = exact_divergence(&moved, &teacher);
                moved.row[i][j] = student.row[i][j] - step;
                double slope = (up - exact_divergence(&moved, &teacher)) / (2 * (double)step);
                if (fabs(slope - gradient[i][j]) > 1e-4) {
                    fail_msg("single %d, [%zu][%zu]: %g, not %g", single, i, j, gradient[i][j],
                             slope);
                }
            }
        }
    }
}

/* For one token the weight of the position is the weight of the answer, so mixing changes no mean.
 */
static void test_weights_undo_the_mixing_of_one_token(void **state)
{
    (void)state;
    table student;
    table teacher;
    randomise(&student, 3);
    randomise(&teacher, 4);
    double mean[2][SMALL] = {{0}};
    for (int mixed = 0; mixed < 2; mixed++) {
        const shoal_minillm s = {.teacher_mixed = mixed, .mix = 0.6F};
        for (int32_t id = 0; id < SMALL; id++) {
            float logits[SMALL];
            double scratch[2];
            memcpy(logits, student.row[0], sizeof logits);
            double q = exp(log_probability(student.row[0], SMALL, (size_t)id));
            double p = exp(log_probability(teacher.row[0], SMALL, (size_t)id));
            double share = mixed ? (double)s.mix * p + (1 - (double)s.mix) * q : q;
            (void)shoal_minillm_loss(&s, 1, SMALL, &id, teacher.row[0], logits, scratch);
            for (size_t j = 0; j < SMALL; j++) {
                mean[mixed][j] += share * (double)logits[j];
            }
        }
    }
    for (size_t j = 0; j < SMALL; j++) {
        assert_true(fabs(mean[0][j] - mean[1][j]) < 1e-6);
    }
}

static void test_samples_follow_the_mixture(void **state)
{
    (void)state;
    enum {
        N = 40000
    };
    table student;
    table teacher;
    randomise(&student, 5);
    randomise(&teacher, 6);
    for (int mixed = 0; mixed < 2; mixed++) {
        const shoal_minillm s = {.teacher_mixed = mixed, .mix = 0.5F};
        size_t counts[SMALL] = {0};
        for (uint64_t i = 0; i < N; i++) {
            int32_t id = shoal_minillm_sample(&s, SMALL, student.row[0], teacher.row[0], 9, i);
            assert_true(id >= 0 && id < SMALL);
            assert_int_equal(id,
                             shoal_minillm_sample(&s, SMALL, student.row[0], teacher.row[0], 9, i));
            counts[id]++;
        }
        for (size_t j = 0; j < SMALL; j++) {
            double q = exp(log_probability(student.row[0], SMALL, j));
            double p = exp(log_probability(teacher.row[0], SMALL, j));
            double want = mixed ? (p + q) / 2 : q;
            double error = sqrt(want * (1 - want) / N);
            assert_true(fabs((double)counts[j] / N - want) < 4 * error);
        }
    }
}

/* --- what the measures are for --------------------------------------------------------------- */

/* An answer drawn from the tables, with its rows. */
typedef struct answer {
    int32_t ids[LENGTH_MAX];
    int32_t from[LENGTH_MAX]; /* the token before */
    float logits[LENGTH_MAX * VOCAB];
    float teacher[LENGTH_MAX * VOCAB];
    size_t n;
} answer;

static void draw(const shoal_minillm *s, const table *student, const table *teacher,
                 uint64_t number, size_t length_max, answer *to)
{
    int32_t last = 0;
    to->n = 0;
    while (to->n < length_max && last != VOCAB - 1) {
        size_t t = to->n++;
        to->from[t] = last;
        memcpy(to->logits + t * VOCAB, student->row[last], VOCAB * sizeof(float));
        memcpy(to->teacher + t * VOCAB, teacher->row[last], VOCAB * sizeof(float));
        last = shoal_minillm_sample(s, VOCAB, student->row[last], teacher->row[last], 7,
                                    number * LENGTH_MAX + t);
        to->ids[t] = last;
    }
}

/* Variance of the gradient of one answer, summed over the table. */
static double gradient_variance(const shoal_minillm *s)
{
    enum {
        N = 1500
    };
    static answer a;
    static double sum[VOCAB * VOCAB];
    table student;
    table teacher;
    double squares = 0;
    randomise(&student, 11);
    randomise(&teacher, 12);
    memset(sum, 0, sizeof sum);
    for (uint64_t i = 0; i < N; i++) {
        double scratch[2 * LENGTH_MAX];
        double one[VOCAB * VOCAB] = {0};
        draw(s, &student, &teacher, i, 10, &a);
        (void)shoal_minillm_loss(s, a.n, VOCAB, a.ids, a.teacher, a.logits, scratch);
        for (size_t k = 0; k < a.n * VOCAB; k++) {
            one[(size_t)a.from[k / VOCAB] * VOCAB + k % VOCAB] += (double)a.logits[k];
        }
        for (size_t k = 0; k < SHOAL_COUNT(one); k++) {
            sum[k] += one[k] / N;
            squares += one[k] * one[k] / N;
        }
    }
    for (size_t k = 0; k < SHOAL_COUNT(sum); k++) {
        squares -= sum[k] * sum[k];
    }
    return squares;
}

/* Adds up the gradients of a batch by row, or of all rows in one where the student has one. */
static void train(const shoal_minillm *s, table *student, const table *teacher, bool one_row,
                  size_t n_steps, float rate)
{
    enum {
        BATCH = 16
    };
    static answer a;
    for (uint64_t step = 0; step < n_steps; step++) {
        table gradient;
        memset(&gradient, 0, sizeof gradient);
        for (uint64_t i = 0; i < BATCH; i++) {
            double scratch[2 * LENGTH_MAX];
            draw(s, student, teacher, step * BATCH + i, LENGTH_MAX, &a);
            (void)shoal_minillm_loss(s, a.n, VOCAB, a.ids, a.teacher, a.logits, scratch);
            for (size_t k = 0; k < a.n * VOCAB; k++) {
                size_t row = one_row ? 0 : (size_t)a.from[k / VOCAB];
                gradient.row[row][k % VOCAB] += a.logits[k] / (float)BATCH;
            }
        }
        for (size_t k = 0; k < VOCAB * VOCAB; k++) {
            size_t row = one_row ? 0 : k / VOCAB;
            student->row[k / VOCAB][k % VOCAB] -= rate * gradient.row[row][k % VOCAB];
        }
    }
}

static void set_all(table *t, float logit)
{
    for (size_t k = 0; k < VOCAB * VOCAB; k++) {
        t->row[k / VOCAB][k % VOCAB] = logit;
    }
}

/* A trap: token 1 repeats itself and is easy to say; the teacher mostly takes the other way, a walk
 * the student has yet to learn. The student's chance to step into the trap; the teacher's is 0.1.
 */
static double hacking(const shoal_minillm *s)
{
    table student;
    table teacher;
    set_all(&teacher, -4);
    set_all(&student, 0);
    teacher.row[0][1] = logf(0.1F);
    teacher.row[0][2] = logf(0.9F);
    teacher.row[1][1] = logf(0.9F);
    teacher.row[1][VOCAB - 1] = logf(0.1F);
    for (size_t i = 2; i < VOCAB - 1; i++) {
        teacher.row[i][i + 1] = 2;
        student.row[i][i] = 5; /* sure of the wrong thing */
    }
    memcpy(student.row[1], teacher.row[1], sizeof student.row[1]); /* it knows how to babble */
    memcpy(student.row[0], teacher.row[0], sizeof student.row[0]);
    train(s, &student, &teacher, false, 400, 0.3F);
    return exp(log_probability(student.row[0], VOCAB, 1));
}

/* The teacher alternates between two tokens and ends one time in twenty; the student has one row
 * for all, so whatever it says costs something at every token. Its mean length; theirs is 20. */
static double mean_length(const shoal_minillm *s)
{
    table student;
    table teacher;
    set_all(&teacher, -9);
    set_all(&student, -9);
    for (size_t i = 0; i < VOCAB; i++) {
        teacher.row[i][i == 1 ? 2 : 1] = logf(0.75F);
        teacher.row[i][i == 1 ? 1 : 2] = logf(0.2F);
        teacher.row[i][VOCAB - 1] = logf(0.05F);
        student.row[i][1] = logf(0.475F);
        student.row[i][2] = logf(0.475F);
        student.row[i][VOCAB - 1] = logf(0.05F);
    }
    train(s, &student, &teacher, true, 300, 0.02F);
    return 1 / exp(log_probability(student.row[0], VOCAB, VOCAB - 1));
}

/* All eight combinations. A measure must help whatever the other two are; only the trap is shunned
 * already where single steps and the norm are both on, so mixing can do no more than keep that. */
static void test_each_measure_does_what_it_is_for(void **state)
{
    (void)state;
    double variance[8];
    double trap[8];
    double length[8];
    print_message("%-20s %10s %12s %12s\n", "", "variance", "trap (0.10)", "length (20)");
    for (size_t i = 0; i < 8; i++) {
        const shoal_minillm s = {.single_step = (i & 1) != 0,
                                 .teacher_mixed = (i & 2) != 0,
                                 .length_norm = (i & 4) != 0,
                                 .mix = 0.2F};
        variance[i] = gradient_variance(&s);
        trap[i] = hacking(&s);
        length[i] = mean_length(&s);
        print_message("%-7s%-6s%-7s %10.3f %12.3f %12.2f\n", i & 1 ? "single" : "",
                      i & 2 ? "mixed" : "", i & 4 ? "norm" : "", variance[i], trap[i], length[i]);
    }
    for (size_t i = 0; i < 8; i++) {
        if (!(i & 1)) {
            assert_true(variance[i | 1] < 0.7 * variance[i]);
        }
        if (!(i & 2)) {
            double least = i == 5 ? -0.01 : 0.1;
            assert_true(trap[i] - trap[i | 2] > least);
        }
        if (!(i & 4)) {
            assert_true(fabs(length[i | 4] - 20) < 0.6 * fabs(length[i] - 20));
        }
    }
}

static void test_defaults_and_lone_tokens(void **state)
{
    (void)state;
    shoal_minillm s = shoal_minillm_default();
    assert_true(s.single_step && s.teacher_mixed && s.length_norm && s.mix == 0.2F);
    /* One choice, far logits, the last token of an answer: nothing overflows. */
    float logits[2] = {0, -200};
    const float teacher[2] = {-200, 0};
    const int32_t id = 0;
    double scratch[2];
    double loss = shoal_minillm_loss(&s, 1, 2, &id, teacher, logits, scratch);
    assert_true(isfinite(loss) && isfinite(logits[0]) && isfinite(logits[1]));
    float one = 3;
    assert_int_equal(shoal_minillm_sample(&s, 1, &one, &one, 1, 1), 0);
    const float nan[2] = {NAN, NAN};
    assert_int_equal(shoal_minillm_sample(&s, 2, nan, nan, 1, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mean_gradient_is_that_of_the_divergence_of_answers),
        cmocka_unit_test(test_weights_undo_the_mixing_of_one_token),
        cmocka_unit_test(test_samples_follow_the_mixture),
        cmocka_unit_test(test_each_measure_does_what_it_is_for),
        cmocka_unit_test(test_defaults_and_lone_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
