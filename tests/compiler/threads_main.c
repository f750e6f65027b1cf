/* For the thread sanitizer: two models in two threads, with teams of 2 and of 4. Argument: the weights. */
#include <pthread.h>
#include <stdio.h>

#include "tiny.model.h"

typedef struct {
    const char *weights;
    int threads, error;
} Work;

static void *work(void *given) {
    static const char text[] = "abc def. Gh abc! ab";
    Work *w = (Work *)given;
    const tiny_model_limits limits = {0, 12, 4, w->threads};
    tiny_model_model *model;
    char out[4000];
    w->error = tiny_model_open(&model, w->weights, &limits);
    if (w->error) return NULL;
    for (int i = 0; i < 40 && !w->error; i++) {
        const tiny_model_options options = {.beam = 1 + i % 4};
        w->error = tiny_model_translate(model, text, sizeof text - 1, &options, out, sizeof out, NULL);
    }
    tiny_model_close(model);
    return NULL;
}

int main(int count, char **values) {
    Work works[2] = {{values[count - 1], 2, 0}, {values[count - 1], 4, 0}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, work, &works[i])) return 3;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    printf("%d %d\n", works[0].error, works[1].error);
    return 0;
}
