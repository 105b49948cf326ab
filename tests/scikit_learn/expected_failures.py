"""Which of scikit-learn's own tests our estimators are expected to fail, and why.

Names are regular expressions for a test with its parameters. Each mark is strict: a test that
passes has to leave the list.
"""

DENSE = "features are dense: an embedding is never sparse"
PENALTIES = "the penalty is the ridge: no l1, no elastic net, and C is finite"
SOLVERS = "about the parameters and warnings of scikit-learn's own solvers"
ITERATIONS = "our warnings name no solver of scikit-learn's, and max_iter is 1 or more"
CALLBACKS = "scikit-learn's callbacks are not implemented"
THEIR_CV = "compares LogisticRegressionCV, whose own solvers stop at a looser tolerance"
SINGLE = "coefficients are float64, also of float32 features"
RESTART = "a step, and a step from a warm start, are not two steps: L-BFGS forgets its corrections"
META = "ours is no meta-estimator: it has no `estimator`, and fits two classes or more"

EXPECTED = {
    r"test_predict_[23]_classes\[csr_.*": DENSE,
    r"test_large_sparse_matrix.*": DENSE,
    r"test_logistic_regression_class_weights\[.*csr_.*": DENSE,
    r"test_dtype_match.*": f"{SINGLE}; {DENSE}",
    r"test_LogisticRegressionCV_GridSearchCV_elastic_net\[3\]": PENALTIES,
    r"test_LogisticRegression_elastic_net_objective.*": PENALTIES,
    r"test_c_inf_no_warning.*": PENALTIES,
    r"test_elastic_net_coeffs.*": PENALTIES,
    r"test_elasticnet_l1_ratio_err_helpful\[LogisticRegression-.*": PENALTIES,
    r"test_l1_ratio_.*": PENALTIES,
    r"test_logistic_regression_solvers_multiclass_unpenalized.*": PENALTIES,
    r"test_logreg_l1.*": PENALTIES,
    r"test_lr_penalty_l1ratio_incompatible.*": PENALTIES,
    r"test_penalty_deprecated\[LogisticRegression\]": PENALTIES,
    r"test_penalty_none.*": PENALTIES,
    r"test_saga_vs_liblinear.*": PENALTIES,
    r"test_scores_attribute_layout_elasticnet.*": PENALTIES,
    r"test_logistic_regression_cv_refit\[42-1\]": PENALTIES,
    r"test_warm_start_newton_solver\[inf-.*": PENALTIES,
    r"test_check_solver_option\[LogisticRegression\]": SOLVERS,
    r"test_liblinear_dual_random_state.*": SOLVERS,
    r"test_liblinear_multiclass_raises\[LogisticRegression\]": SOLVERS,
    r"test_liblinear_with_large_values": SOLVERS,
    r"test_logistic_cv\[.*": THEIR_CV,
    r"test_logistic_cv_multinomial_score\[neg_log_loss.*": THEIR_CV,
    r"test_logistic_regression_cv_refit\[42-0\]": THEIR_CV,
    r"test_warm_start_newton_solver\[1-.*": RESTART,
    r"test_logisticregression_warns_with_n_jobs": SOLVERS,
    r"test_newton_cholesky_fallback_to_lbfgs.*": SOLVERS,
    r"test_logreg_predict_proba_multinomial.*": SOLVERS,
    r"test_sparsify.*": SOLVERS,
    r"test_max_iter\[.*": ITERATIONS,
    r"test_zero_max_iter.*": ITERATIONS,
    r"test_logistic_regression_callback_.*": CALLBACKS,
    r"test_multinomial_cv_iris.*": META,
    r"test_constant_int_target.*": META,
    r"test_multiclass_estimator_attribute_error": META,
    r"test_ovr_always_present": META,
}
